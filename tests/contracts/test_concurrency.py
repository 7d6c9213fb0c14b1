"""One layer in many threads, copies of it, and layers in other processes."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cvxlayers.layer.layer import Layer
from tests.contracts.case import Case
from tests.contracts.table import case
from tests.support import layers
from tests.support.tolerance import assert_all_close

ROWS = [case(name) for name in ("simplex_projection", "norm_ball", "sdp_order_3", "entropy")]


def answer(layer: Layer, values: Any) -> list[np.ndarray]:
    """Outputs and gradients of their sum."""
    record = layer.solve(values)
    return [*record.outputs, *record.vjp([np.ones_like(o) for o in record.outputs])]


def batch_of(row: Case, size: int) -> list[np.ndarray]:
    return [np.stack(values) for values in zip(*(row.point(seed) for seed in range(size)), strict=True)]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_one_layer_in_eight_threads(row: Case) -> None:
    """Batches of eight different sizes at once: nothing of one call may reach another."""
    layer = Layer(layers.compiled(row))
    sizes = [1, 2, 3, 4, 5, 6, 7, 8]
    expected = [answer(layer, batch_of(row, size)) for size in sizes]

    def work(turn: int) -> tuple[list[list[np.ndarray]], list[int]]:
        found, seen = [], []
        for size in np.roll(sizes, turn):
            found.append(answer(layer, batch_of(row, int(size))))
            assert layer.info is not None
            seen.append(len(layer.info.statuses))
        return found, seen

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    for turn, (found, seen) in enumerate(results):
        assert seen == np.roll(sizes, turn).tolist()
        for mine, right in zip(found, (expected[size - 1] for size in np.roll(sizes, turn)), strict=True):
            assert_all_close(mine, right, 1e-5, f"turn {turn}")


def test_threads_do_not_see_each_others_report() -> None:
    layer = Layer(layers.compiled(ROWS[0]))
    layer.solve(ROWS[0].point())
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: layer.info).result() is None


@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_answer_alike(row: Case, copier: Any) -> None:
    layer = Layer(layers.compiled(row), on_failure="nan", check_parameters=False)
    before = answer(layer, row.point())
    other = copier(layer)
    assert (other.on_failure, other.check_parameters, other.solver) == ("nan", False, None)
    assert_all_close(answer(other, row.point()), before, 1e-7, row.name)
    assert_all_close(answer(layer, row.point()), before, 1e-7, f"{row.name}, the original")


def test_a_torch_layer_survives_deepcopy_pickle_and_torch_save(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from cvxlayers.torch import CvxpyLayer

    row = ROWS[0]
    built = row.build()
    net = torch.nn.Sequential(torch.nn.Linear(3, 6), CvxpyLayer(built.problem, built.parameters, built.variables))
    given = torch.ones(2, 3)
    before = net(given)[0]
    torch.save(net, tmp_path / "net.pt")
    memory = io.BytesIO(pickle.dumps(net))
    for other in (copy.deepcopy(net), pickle.load(memory), torch.load(tmp_path / "net.pt", weights_only=False)):
        after = other(given)[0]
        assert_all_close([after.detach().numpy()], [before.detach().numpy()], 1e-6, "copy")
        after.sum().backward()
    net.load_state_dict(net.state_dict())
    assert not list(net[1].parameters())


def _in_worker(job: tuple[Layer, list[np.ndarray]]) -> list[np.ndarray]:
    return answer(*job)


_inherited: Layer | None = None


def _with_inherited(values: list[np.ndarray]) -> list[np.ndarray]:
    assert _inherited is not None
    return answer(_inherited, values)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_workers_that_are_handed_a_layer(method: str) -> None:
    row = ROWS[0]
    layer = Layer(layers.compiled(row))
    expected = answer(layer, batch_of(row, 3))
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        for found in pool.map(_in_worker, [(layer, batch_of(row, 3))] * 2, timeout=100):
            assert_all_close(found, expected, 1e-7, method)


@pytest.mark.skipif(sys.platform != "linux", reason="fork is safe to use on Linux only")
def test_forked_workers_use_the_layer_of_their_parent() -> None:
    """The parent has solved already, with threads: neither its locks nor its solvers may hang the child."""
    global _inherited
    row = ROWS[0]
    _inherited = Layer(layers.compiled(row))
    expected = answer(_inherited, batch_of(row, 8))
    try:
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
            for found in pool.map(_with_inherited, [batch_of(row, 8)] * 2, timeout=100):
                assert_all_close(found, expected, 1e-7, "forked")
    finally:
        _inherited = None
