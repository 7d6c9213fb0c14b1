"""The quadratic program on arrays: against solutions known by construction and the KKT matrix of Amos and Kolter."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp

from cvxlayers import QP, CompiledProblem, OptionError, ParameterError, SolveError, load
from cvxlayers.layer.qp import Form, Matrix, compile_qp, read_form
from cvxlayers.solvers.registry import SOLVERS
from tests.support.quadratic import Known, known_qp
from tests.support.tolerance import assert_all_close, assert_close

ENGINES = [name for name in ("IPM", "CLARABEL") if SOLVERS[name].installed()]
KINDS = {
    "all": {"inequalities": 5, "equalities": 2, "active": 2},
    "inequalities": {"inequalities": 5, "active": 3},
    "equalities": {"equalities": 2},
    "neither": {},
    "linear program": {"inequalities": 7, "equalities": 1, "active": 4, "quadratic": False},
    "linear program, inequalities": {"inequalities": 9, "active": 5, "quadratic": False},
    "determined by equalities": {"equalities": 5},
}


def known(kind: str, rng: np.random.Generator, batch: int = 3) -> Known:
    return known_qp(rng, batch, 5, **KINDS[kind])


def expected(problem: Known) -> list[np.ndarray]:
    """x and the multipliers of those constraints that are there."""
    parts = [problem.x] + [problem.inequality] * ("G" in problem.data) + [problem.equality] * ("A" in problem.data)
    return parts


def cotangents(rng: np.random.Generator, outputs: list[np.ndarray]) -> list[np.ndarray]:
    return [rng.normal(size=part.shape) for part in outputs]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_solutions_duals_and_all_gradients(kind: str, engine: str, rng: np.random.Generator) -> None:
    problem = known(kind, rng)
    record = QP(duals=True, solver=engine).solve(**problem.data)
    outputs = expected(problem)
    assert_all_close(record.outputs, outputs, 1e-7, kind)
    gx, *rest = cotangents(rng, outputs)
    gl = rest.pop(0) if "G" in problem.data else None
    gn = rest.pop(0) if "A" in problem.data else None
    found = record.vjp([part for part in (gx, gl, gn) if part is not None])
    right = problem.gradients(gx, gl, gn)
    assert_all_close(found, [right[name] for name in problem.data], 1e-6, f"gradients, {kind}")


@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_adjoint_derivative_agree(kind: str, rng: np.random.Generator) -> None:
    problem = known(kind, rng)
    record = QP(duals=True).solve(**problem.data)
    tangents = [rng.normal(size=part.shape) for part in problem.data.values()]
    weights = cotangents(rng, list(record.outputs))
    forward = sum(float((a * b).sum()) for a, b in zip(weights, record.jvp(tangents), strict=True))
    adjoint = sum(float((a * b).sum()) for a, b in zip(record.vjp(weights), tangents, strict=True))
    assert_close(forward, adjoint, 1e-9, kind)


@pytest.mark.parametrize("shared", [("Q",), ("p",), ("G",), ("h",), ("A",), ("b",), ("Q", "G", "A"), tuple("QpGhA")])
@pytest.mark.parametrize("leading", [(), (1,)], ids=["unbatched", "size 1"])
def test_shared_arguments_get_the_sum_of_the_gradients(
    shared: tuple[str, ...], leading: tuple[int, ...], rng: np.random.Generator
) -> None:
    one = known("all", rng, 1)
    data = {name: np.repeat(part, 4, axis=0) for name, part in one.data.items()}
    for name in set(data) - set(shared):  # the others differ a little from element to element
        noise = 0.01 * rng.normal(size=data[name].shape)
        data[name] = data[name] + (noise + noise.swapaxes(1, 2) if name == "Q" else noise)
    g = rng.normal(size=(4, 5))
    qp = QP()
    each = dict(zip(data, qp.solve(**data).vjp([g]), strict=True))
    given = {name: part[0].reshape(leading + part.shape[1:]) if name in shared else part for name, part in data.items()}
    record = qp.solve(**given)
    assert record.outputs[0].shape == (4, 5)
    for name, gradient in zip(data, record.vjp([g]), strict=True):
        right = each[name].sum(axis=0).reshape(given[name].shape) if name in shared else each[name]
        assert_close(gradient, right, 1e-8, name)


def test_batches_of_any_shape_and_none(rng: np.random.Generator) -> None:
    problem = known("all", rng, 6)
    qp = QP()
    (flat,) = qp(**problem.data)
    (folded,) = qp(**{name: part.reshape(2, 3, *part.shape[1:]) for name, part in problem.data.items()})
    (single,) = qp(**{name: part[4] for name, part in problem.data.items()})
    record = qp.solve(**{name: part[:0] for name, part in problem.data.items()})
    assert_close(folded, flat.reshape(2, 3, 5), 1e-9, "folded")
    assert_close(single, flat[4], 1e-7, "single")
    assert record.outputs[0].shape == (0, 5)
    assert [part.shape for part in record.vjp([np.zeros((0, 5))])] == [part[:0].shape for part in problem.data.values()]


def test_without_inequalities_the_solution_is_that_of_a_linear_system(rng: np.random.Generator) -> None:
    problem = known("neither", rng)
    (x,) = QP()(**problem.data)
    assert_close(x, -np.linalg.solve(problem.data["Q"], problem.data["p"][..., None])[..., 0], 1e-8, "-Q^-1 p")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_singular_matrix_gives_a_verified_point_or_is_unbounded(engine: str, rng: np.random.Generator) -> None:
    S = rng.normal(size=(4, 2))
    Q, p = S @ S.T, S @ rng.normal(size=2)
    qp = QP(solver=engine)
    (x,) = qp(Q, p)
    assert_close(Q @ x, -p, 1e-7, "Qx = -p")
    for matrix in (Q, np.zeros((4, 4)), None):
        with pytest.raises(SolveError, match="unbounded") as caught:
            qp(matrix, np.stack([0 * p, p + rng.normal(size=4)]))
        assert caught.value.indices == (1,)


@pytest.mark.parametrize("engine", ENGINES)
def test_zero_and_absent_quadratic_parts_are_the_same_linear_program(engine: str, rng: np.random.Generator) -> None:
    problem = known("linear program", rng)
    qp, g = QP(solver=engine), rng.normal(size=(3, 5))
    without = qp.solve(**problem.data)
    zero = qp.solve(np.zeros((5, 5)), **problem.data)
    assert_close(zero.outputs[0], problem.x, 1e-7, "vertex")
    Q, *rest = zero.vjp([g])
    assert_all_close(rest, without.vjp([g]), 1e-6, "gradients")
    assert_close(Q, np.zeros((5, 5)), 1e-6, "a vertex stays where it is")


@pytest.mark.parametrize("engine", ENGINES)
def test_redundant_equalities_change_nothing(engine: str, rng: np.random.Generator) -> None:
    """With A = M a and b = M c, the gradients of a and c are those of the program without redundancy."""
    problem = known("all", rng)
    M = np.array([[1.0, 0], [0, 1], [1, 0], [1, -2]])
    data = {**problem.data, "A": M @ problem.data["A"], "b": problem.data["b"] @ M.T}
    g = rng.normal(size=problem.x.shape)
    record = QP(solver=engine).solve(**data)
    assert_close(record.outputs[0], problem.x, 1e-7, "x")
    found = dict(zip(data, record.vjp([g]), strict=True))
    found["A"], found["b"] = M.T @ found["A"], found["b"] @ M
    right = problem.gradients(g)
    assert_all_close([found[name] for name in data], [right[name] for name in data], 1e-6, "gradients")


@pytest.mark.parametrize("engine", ENGINES)
def test_infeasible_elements_are_named_and_the_others_can_go_on(engine: str) -> None:
    G, h = np.array([[1.0], [-1.0]]), np.array([[1.0, 1.0], [-2.0, 1.0], [3.0, 0.0]])
    with pytest.raises(SolveError, match=r"1 \(infeasible\)") as caught:
        QP(solver=engine)(np.eye(1), np.full(1, 0.5), G, h)
    assert (caught.value.indices, caught.value.statuses) == ((1,), ("infeasible",))
    qp = QP(solver=engine, on_failure="nan")
    (x,) = qp(np.eye(1), np.full(1, 0.5), G, h)
    assert np.isnan(x[1])
    assert_close(x[[0, 2], 0], [-0.5, 0], 1e-7, "the others")
    assert qp.info is not None
    assert qp.info.statuses.tolist() == ["optimal", "infeasible", "optimal"]
    with pytest.raises(SolveError, match="infeasible"):
        QP(solver=engine)(np.eye(2), A=np.ones((2, 2)), b=np.array([0.0, 1.0]))


def test_only_the_symmetric_part_of_Q_matters_and_its_gradient_is_symmetric(rng: np.random.Generator) -> None:
    problem = known("all", rng)
    skew = rng.normal(size=(3, 5, 5))
    data = {**problem.data, "Q": problem.data["Q"] + skew - skew.swapaxes(1, 2)}
    g = rng.normal(size=problem.x.shape)
    record = QP().solve(**data)
    assert_close(record.outputs[0], problem.x, 1e-7, "x")
    Q = record.vjp([g])[0]
    assert_close(Q, Q.swapaxes(1, 2), 1e-14, "symmetry")
    assert_close(Q, problem.gradients(g)["Q"], 1e-6, "gradient")


def test_an_indefinite_matrix_is_refused_by_name(rng: np.random.Generator) -> None:
    Q = np.stack([np.eye(3), np.diag([1.0, 1.0, -0.1])])
    with pytest.raises(ParameterError, match=r"parameter 'Q'.*batch element \(1,\).*positive semidefinite"):
        QP()(Q, np.ones(3))
    low_rank = (rng.normal(size=(3, 30, 4)) @ rng.normal(size=(1, 4, 4))).astype(np.float32)
    Q = low_rank @ low_rank.swapaxes(1, 2)  # positive semidefinite up to rounding in single precision
    (x,) = QP()(Q, np.ones(30), -np.eye(30), np.zeros(30))
    assert_close(x, np.zeros((3, 30)), 1e-6, "x")


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_a_little_negative_curvature_beside_much_is_refused(unit: float) -> None:
    """A saddle, and a vertex of the box that is not the best one, came back as optimal."""
    G, h = np.concatenate([np.eye(2), -np.eye(2)]), np.full(4, 500.0)
    for p in (np.array([2.0, 0.0]), np.array([2.0, 3e-3])):
        with pytest.raises(ParameterError, match=r"parameter 'Q'.*positive semidefinite"):
            QP()(unit * np.diag([5.0, -4e-6]), unit * p, G, h)
        (x,) = QP()(unit * np.diag([5.0, 0.0]), unit * (p + np.array([0.0, 1e-3])), G, h)
        assert_close(x, [-0.4, -500.0], 1e-6, "x")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_indefinite_matrix_fails_alone(engine: str) -> None:
    """Q = diag(a, 4) gives z = (2 / a, -1); and a Q that breaks its pattern follows the policy as well."""
    Q = np.stack([np.diag([a, 4.0]) for a in (1.0, -1.0, 8.0, 5.0)])
    Q[1, 0, 1] = Q[1, 1, 0] = 3.0
    p = np.array([-2.0, 4.0])
    record = QP(solver=engine, on_failure="nan").solve(Q, p)
    assert record.info.statuses.tolist() == ["optimal", "failed", "optimal", "optimal"]
    assert_close(record.outputs[0][[0, 2, 3]], [[2.0, -1.0], [0.25, -1.0], [0.4, -1.0]], 1e-7, "x")
    assert np.isnan(record.outputs[0][1]).all()
    to_Q, to_p = QP(solver=engine, on_failure="zero_grad").solve(Q, p).vjp([np.ones((4, 2))])
    assert (to_Q[1] == 0).all()
    assert_close(to_p, [-1 - 0.125 - 0.2, -0.75], 1e-7, "the sum over the others")
    assert np.isnan(record.vjp([np.ones((4, 2))])[1]).all()
    Q[1] = np.eye(2) + 0.25  # definite, but not diagonal
    qp = QP({"Q": np.eye(2)}, solver=engine, on_failure="nan")
    assert np.isnan(qp(Q, p)[0]).all(axis=1).tolist() == [False, True, False, False]
    with pytest.raises(ParameterError, match=r"'Q'.*sparsity"):
        QP({"Q": np.eye(2)}, solver=engine)(Q, p)


@pytest.mark.parametrize("engine", ENGINES)
def test_patterns_make_the_problem_sparse_and_change_no_answer(engine: str, rng: np.random.Generator) -> None:
    problem = known("inequalities", rng)
    masks = {"Q": np.eye(5), "G": rng.random((5, 5)) < 0.6}
    data = {name: part * masks[name] if name in masks else part for name, part in problem.data.items()}
    g = rng.normal(size=(3, 5))
    dense, sparse = (
        QP(solver=engine).solve(**data),
        QP({**masks, "G": sp.csr_array(masks["G"])}, solver=engine).solve(**data),
    )
    assert sparse.compiled.structure.P.nnz == 5
    assert sparse.compiled.structure.A.nnz == masks["G"].sum()
    assert_all_close(sparse.outputs, dense.outputs, 1e-7, "x")
    right = [part * masks.get(name, 1) for name, part in zip(data, dense.vjp([g]), strict=True)]
    assert_all_close(sparse.vjp([g]), right, 1e-6, "gradients")
    with pytest.raises(ParameterError, match=r"parameter 'G'.*sparsity"):
        QP(masks)(**{**data, "G": problem.data["G"]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "all of Q, p, G, h, A and b are None"),
        ({"Q": np.eye(2), "G": np.eye(2)}, "argument 'h': it is None, but 'G' was given"),
        ({"Q": np.eye(2), "b": np.ones(2)}, "argument 'A': it is None, but 'b' was given"),
        ({"Q": np.eye(2), "p": np.ones(3)}, r"argument 'Q': got the shape \(2, 2\), expected \(3, 3\)"),
        ({"p": np.ones(2), "G": np.ones(2), "h": np.ones(1)}, "argument 'G'.*for one row, add a dimension"),
        ({"p": np.ones(2), "G": np.eye(2), "h": np.ones(3)}, r"argument 'h': got the shape \(3,\), expected \(2,\)"),
        ({"p": np.ones((4, 2)), "G": np.eye(2), "h": np.ones((3, 2))}, "do not broadcast"),
        ({"p": np.zeros(0)}, "at least one variable"),
        ({"p": np.array([1.0, np.nan])}, "parameter 'p'.*NaN"),
        ({"p": np.array(["a"])}, "parameter 'p'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        QP()(**arguments)


def test_wrong_options_are_named() -> None:
    with pytest.raises(OptionError, match=r"patterns.*'h'"):
        QP({"h": np.ones(3)})
    with pytest.raises(ParameterError, match="patterns: that of 'G'"):
        QP({"G": np.ones(3)})
    with pytest.raises(ParameterError, match="argument 'Q': its pattern"):
        QP({"Q": np.ones((3, 3))})(np.eye(2), np.ones(2))
    with pytest.raises(OptionError, match="on_failure"):
        QP(on_failure="ignore")(np.eye(1))


def test_zero_rows_are_no_constraints(rng: np.random.Generator) -> None:
    problem = known("neither", rng)
    x, *duals = QP(duals=True)(**problem.data, G=np.zeros((0, 5)), h=np.zeros(0), A=np.zeros((3, 0, 5)), b=np.zeros(0))
    assert_close(x, problem.x, 1e-7, "x")
    assert [dual.shape for dual in duals] == [(3, 0), (3, 0)]


def test_each_form_is_compiled_once_and_kept(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    forms: list[Form] = []

    def counted(form: Form) -> CompiledProblem:
        forms.append(form)
        return compile_qp(form)

    monkeypatch.setattr("cvxlayers.layer.qp.compile_qp", counted)
    qp = QP()
    for n in (2, 3, 2, 3):
        qp(np.eye(n), np.ones(n))
        qp(np.eye(n), np.ones((4, n)))
    assert [form.n for form in forms] == [2, 3]


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda qp: pickle.loads(pickle.dumps(qp))], ids=["deepcopy", "pickle"]
)
def test_copies_solve(clone, rng: np.random.Generator) -> None:
    problem, qp = known("all", rng), QP({"Q": np.ones((5, 5))}, duals=True)
    right = qp(**problem.data)
    assert_all_close(clone(qp)(**problem.data), right, 1e-12, "copy")


def test_threads_with_different_forms(rng: np.random.Generator) -> None:
    problems = [known_qp(rng, size, size + 1, size, 0, 1) for size in range(1, 6)]
    qp = QP()

    def work(turn: int) -> bool:
        problem = problems[turn % 5]
        (x,) = qp(**problem.data)
        assert qp.info is not None
        return len(qp.info.statuses) == len(problem.x) and np.allclose(x, problem.x, atol=1e-6)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(40)))


def test_a_compiled_form_can_be_saved(tmp_path, rng: np.random.Generator) -> None:
    problem = known("all", rng)
    qp = QP({"G": np.ones((5, 5))})
    record = qp.solve(**problem.data)
    record.compiled.save(tmp_path / "qp.cvxl")
    assert load(tmp_path / "qp.cvxl").parameters == record.compiled.parameters


def test_forms_are_keys() -> None:
    shapes = {"Q": (4, 2, 2), "p": (2,), "G": (3, 2), "h": (4, 3)}
    assert read_form(shapes) == read_form({**shapes, "Q": (2, 2)}) == Form(2, Matrix(2, 2), True, Matrix(3, 2))
    assert len({read_form(shapes), read_form(shapes, duals=True), read_form({"p": (2,)})}) == 3
