"""Projections: optimality, closed-form Jacobians, every kind of derivative, kinks, single precision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.closed import project
from cvxlayers.errors import OptionError, ParameterError
from cvxlayers.nodes.projections import projection_rules
from cvxlayers.nodes.projections.projection import (
    SETS,
    Projection,
    project_l1_sphere,
    project_l2_ball,
    project_l2_sphere,
    project_linf_ball,
    project_linf_sphere,
    project_simplex,
    project_simplex_kl,
)
from tests.support.tolerance import assert_close
from tests.support.transformations import assert_derivatives, assert_single_precision, assert_vmap

EUCLIDEAN = [name for name in SETS if name != "simplex_kl"]
NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "l1": lambda y: y.abs().sum(-1),
    "l2": lambda y: (y * y).sum(-1).sqrt(),
    "linf": lambda y: y.abs().amax(-1),
}


def sample(name: str, batch: int = 4, n: int = 5) -> tuple[Tensor, Tensor]:
    """Points in and out of the set, none at a kink."""
    rng = np.random.default_rng(3)
    x = torch.as_tensor(rng.normal(size=(batch, n)))
    if name == "simplex_kl":
        x = x.abs() + 0.1
    return x, torch.as_tensor(rng.uniform(0.3, 4.0, batch))


def feasible(name: str, y: Tensor, r: Tensor) -> Tensor:
    """How far each point is from the set."""
    if name == "simplex":
        return torch.maximum((y.sum(-1) - r).abs(), torch.relu(-y).amax(-1))
    norm, kind = name.split("_")
    excess = NORMS[norm](y) - r
    return excess.abs() if kind == "sphere" else torch.relu(excess)


@pytest.mark.parametrize("name", EUCLIDEAN)
def test_no_point_of_the_set_is_nearer(name: str) -> None:
    x, r = sample(name, batch=20)
    y = SETS[name](x, r)
    assert float(feasible(name, y, r).max()) < 1e-12
    rng = np.random.default_rng(4)
    others = torch.as_tensor(rng.normal(size=(500, *x.shape)))
    others = y + 0.3 * others if name != "l2_sphere" else others
    others = SETS[name](others, r)
    assert float(feasible(name, others, r).max()) < 1e-12
    gap = ((others - x) ** 2).sum(-1) - ((y - x) ** 2).sum(-1)
    assert float(gap.min()) > -1e-10


@pytest.mark.parametrize("name", list(SETS))
def test_derivatives_of_first_and_second_order(name: str) -> None:
    x, r = sample(name, batch=2, n=3)
    assert_derivatives(SETS[name], (x, r))


@pytest.mark.parametrize("name", list(SETS))
def test_vmap_and_single_precision(name: str) -> None:
    x, r = sample(name)
    assert_vmap(SETS[name], (x, r))
    assert_single_precision(SETS[name], (x, r))


def test_the_simplex_is_the_closed_form_and_sparsemax() -> None:
    x, _ = sample("simplex", 30, 8)
    w = torch.as_tensor(np.random.default_rng(5).normal(size=x.shape))
    x.requires_grad_()
    y = project_simplex(x)
    (gradient,) = torch.autograd.grad(y, x, w)
    (expected,), (expected_gradient,) = project((x.detach().numpy(),), (w.numpy(),))
    assert_close(y.detach(), expected, 1e-12, "simplex")
    assert_close(gradient, expected_gradient, 1e-12, "gradient")
    # Sparsemax of (t, 0) is (min(max((t + 1) / 2, 0), 1), ...) (Martins, Astudillo 2016, Section 2.3).
    t = torch.linspace(-2, 2, 9, dtype=torch.float64)
    pair = project_simplex(torch.stack([t, torch.zeros_like(t)], -1))
    assert_close(pair[:, 0], ((t + 1) / 2).clamp(0, 1), 1e-15, "sparsemax")


def test_the_divergence_projection_has_its_known_jacobian() -> None:
    x = torch.tensor([0.5, 1.5, 2.0], dtype=torch.float64)
    total = x.sum()
    assert_close(project_simplex_kl(x), x / total, 1e-15, "y = x / sum(x)")
    expected = torch.eye(3, dtype=torch.float64) / total - torch.outer(x, torch.ones(3, dtype=torch.float64)) / total**2
    assert_close(torch.func.jacrev(project_simplex_kl)(x), expected, 1e-15, "Dy = I/S - x1'/S^2")


def test_at_a_vertex_the_derivative_is_zero_and_inside_the_identity() -> None:
    vertex = torch.tensor([3.0, -2.0], dtype=torch.float64)
    for function in (project_simplex, project_linf_ball):
        assert torch.equal(torch.func.jacrev(function)(vertex), torch.zeros(2, 2, dtype=torch.float64))
    inside = torch.tensor([0.2, -0.3], dtype=torch.float64)
    for name in ("l1_ball", "l2_ball", "linf_ball"):
        assert torch.equal(torch.func.jacrev(SETS[name])(inside), torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_the_gradient_on_the_ball_is_right_in_single_precision_at_every_scale(scale: float) -> None:
    # On the surface of the ball an absolute test of activity fails: a gradient 0.91 off is on record.
    rng = np.random.default_rng(6)
    x = torch.as_tensor(rng.normal(size=(200, 3)), dtype=torch.float32)
    x = scale * torch.nn.functional.normalize(x) * torch.linspace(1.001, 4, 200)[:, None]
    jacobian = torch.func.vmap(torch.func.jacrev(lambda x: project_l2_ball(x, scale)))(x)
    exact = x.double() / scale
    length = exact.norm(dim=-1)[:, None, None]
    direction = exact[:, :, None] / length
    expected = (torch.eye(3, dtype=torch.float64) - direction @ direction.mT) / length
    assert_close(jacobian, expected, 1e-5, f"Jacobian at scale {scale}")


def test_a_long_single_precision_vector_keeps_its_support() -> None:
    x = torch.as_tensor(np.random.default_rng(7).normal(size=200_000)) + 1e3
    y32, y64 = project_simplex(x.float()), project_simplex(x.float().double())
    assert torch.equal(y32 > 0, y64 > 0)
    assert_close(y32, y64, 1e-3, "values", floor=y64.max().item())
    assert abs(y32.double().sum().item() - 1) < 1e-5


def test_kinks_are_as_documented() -> None:
    zero = torch.zeros(3, dtype=torch.float64)
    assert project_l2_sphere(zero, 2.0).tolist() == [2.0, 0.0, 0.0]
    assert torch.equal(torch.func.jacrev(project_l2_sphere)(zero), torch.zeros(3, 3, dtype=torch.float64))
    curvature = torch.func.hessian(lambda x: project_l2_ball(x).sum())(zero)
    assert torch.equal(curvature, torch.zeros(3, 3, dtype=torch.float64))
    assert project_linf_sphere(zero).tolist() == [1.0, 0.0, 0.0]
    assert_close(project_l1_sphere(zero), np.full(3, 1 / 3), 1e-15, "L1 sphere at zero")
    on = torch.tensor([0.0, -1.0], dtype=torch.float64)
    for name in ("l1_ball", "l2_ball", "linf_ball"):
        assert torch.equal(torch.func.jacrev(SETS[name])(on), torch.eye(2, dtype=torch.float64)), name


def extremes(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows of one direction whose squares overflow, vanish or neither, and zero; and their lengths."""
    direction = torch.tensor([3.0, -4.0, 12.0], dtype=dtype) / 13
    kind = torch.finfo(dtype)
    lengths = torch.tensor([kind.max / 8, kind.tiny * 64, 2.0, 0.5, 0.0], dtype=dtype)
    return direction * lengths[:, None], lengths


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["l2_sphere", "l2_ball"])
def test_huge_tiny_and_zero_rows_in_one_batch(name: str, dtype: torch.dtype) -> None:
    x, lengths = extremes(dtype)
    accuracy, ball = 8 * torch.finfo(dtype).eps, name == "l2_ball"
    inside = (lengths <= 1) & ball
    expected = torch.where(inside[:, None], x, x[2] / 2)
    if not ball:
        expected[4] = torch.tensor([1.0, 0.0, 0.0])
    leaf, r = x.clone().requires_grad_(), torch.ones(len(x), dtype=dtype, requires_grad=True)
    y = SETS[name](leaf, r)
    assert_close(y.detach(), expected, accuracy, "values")
    assert torch.equal(y[inside], x[inside])
    across = torch.tensor([4.0, 3.0, 0.0], dtype=dtype)  # orthogonal to the rows
    gradient, slope = torch.autograd.grad(y, (leaf, r), across.expand_as(x), create_graph=True)
    factor = torch.where(inside, 1.0, 1 / lengths)
    if not ball:
        assert gradient[4].tolist() == [0.0, 0.0, 0.0]
        assert slope[4].item() == 4.0
        factor[4] = 0.0
    assert_close((gradient[:4] / factor[:4, None]).detach(), across.expand(4, 3), accuracy, "gradient")
    assert_close(slope[:4].detach(), torch.zeros(4), accuracy, "gradient in the radius")
    (second,) = torch.autograd.grad(gradient[2:].sum(), r)
    assert_close(second[2:], torch.where(inside, 0.0, factor)[2:] * across.sum(), accuracy, "second derivative")


@pytest.mark.parametrize("name", ["l2_sphere", "l2_ball"])
def test_rows_that_need_care_do_not_change_the_others(name: str) -> None:
    def padded(x: Tensor, r: Tensor) -> Tensor:
        return SETS[name](torch.cat([x, 1e-200 * x]), torch.cat([r, r]))[: len(x)]

    x, r = sample(name)
    assert_close(padded(x, r), SETS[name](x, r), 1e-15, "values")
    assert_derivatives(padded, (x[:2, :3], r[:2]))


@pytest.mark.parametrize("steps", [12, 2])
@pytest.mark.parametrize("name", ["simplex", "l1_sphere", "l1_ball"])
def test_thresholds_by_steps_are_those_by_sorting(name: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection_rules, "STEPS", steps)
    rng = np.random.default_rng(8)
    x = torch.as_tensor(rng.normal(size=(200, 64)) * rng.uniform(0.01, 10, (200, 1)))
    x[0], x[1], x[2], x[3, 2:] = 0.0, 1e300 * x[1], 1e-300 * x[2], -torch.inf if name == "simplex" else 0.0
    r = torch.as_tensor(rng.uniform(0.3, 4.0, 200))
    w = torch.as_tensor(rng.normal(size=x.shape))
    assert x.numel() >= projection_rules.SMALL

    def both(x: Tensor, r: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        return (*torch.func.vjp(SETS[name], x, r)[1](w), SETS[name](x, r))

    alone = [torch.stack(part) for part in zip(*map(both, x, r, w), strict=True)]
    for together, part in zip(both(x, r, w), alone, strict=True):
        assert_close(together, part, 1e-13, "values and gradients")
    r[0] = 1e308  # the sum of what lies above the first threshold overflows
    together, alone = SETS[name](x, r), torch.stack([SETS[name](*row) for row in zip(x, r, strict=True)])
    assert_close(together[0], np.full(64, 0 if name == "l1_ball" else 1e308 / 64), 1e-15, "equal parts")
    assert_close(together[1:], alone[1:], 1e-13, "the others")


def test_compilers_see_through() -> None:
    x, _ = sample("l1_ball")
    w = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).reshape(x.shape)
    for name in ("simplex", "l1_sphere", "l1_ball", "l2_sphere", "l2_ball"):
        found = []
        for function in (SETS[name], torch.compile(SETS[name], fullgraph=True, backend="eager")):
            leaf = x.clone().requires_grad_()
            y = function(leaf, 1.5)
            found += [y.detach(), torch.autograd.grad(y, leaf, w)[0]]
        assert_close(found[2], found[0], 1e-14, f"value, {name}")
        assert_close(found[3], found[1], 1e-14, f"gradient, {name}")


def test_shapes_scalars_and_empty_batches() -> None:
    for name, function in SETS.items():
        assert function(torch.ones(1)).tolist() == [1.0], name
        assert function(torch.ones(0, 3)).shape == (0, 3)
        assert function(torch.ones(2, 3, 4), torch.ones(3)).shape == (2, 3, 4)
        assert Projection(name, 2.0)(torch.ones(5, 3)).shape == (5, 3)
    assert torch.isnan(project_simplex(torch.tensor([torch.nan, 1.0]))).all()


def test_the_radius_of_the_module_is_learned() -> None:
    layer = Projection("l2_sphere", torch.nn.Parameter(torch.tensor(2.0)))
    assert [name for name, _ in layer.named_parameters()] == ["radius"]
    layer(torch.tensor([[3.0, 4.0]])).sum().backward()
    assert float(layer.radius.grad) == pytest.approx(1.4)


def test_inputs_stay_as_they_are() -> None:
    for name, function in SETS.items():
        x, r = sample(name)
        before = x.clone(), r.clone()
        function(x, r)
        assert torch.equal(x, before[0])
        assert torch.equal(r, before[1])


@pytest.mark.parametrize(
    ("x", "radius", "message"),
    [
        ([1.0, 2.0], 1.0, "x: got list, expected a torch.Tensor"),
        (torch.ones(3, dtype=torch.int64), 1.0, r"x: got dtype torch.int64, expected a floating dtype"),
        (torch.ones(3, 0), 1.0, r"x: got shape \(3, 0\), expected \(..., n\)"),
        (torch.tensor(1.0), 1.0, r"x: got shape \(\), expected \(..., n\)"),
        (torch.ones(3), -1.0, "radius: got -1.0, expected a positive finite number"),
        (torch.ones(3), "1", "radius: got '1', expected a positive"),
        (torch.ones(3), float("nan"), "radius: got nan"),
        (torch.ones(2, 3), torch.tensor([1.0, 0.0]), r"radius: got entries that are not positive and finite, first at"),
        (torch.ones(2, 3), torch.ones(3), r"radius: got shape \(3,\), expected a shape that broadcasts to the batch"),
        (torch.ones(2, 3), torch.ones(2).double(), "radius: got torch.float64 on cpu, expected torch.float32"),
    ],
)
def test_bad_arguments_are_named(x: Tensor, radius: Tensor | float, message: str) -> None:
    for function in SETS.values():
        with pytest.raises(ParameterError, match=message):
            function(x, radius)


def test_bad_entries_are_seen_inside_transformations() -> None:
    with pytest.raises(ParameterError, match="radius: got entries that are not positive"):
        torch.func.vmap(project_simplex)(torch.ones(2, 3), torch.tensor([1.0, -1.0]))
    with pytest.raises(ParameterError, match="x: got entries that are not positive"):
        torch.func.jacrev(project_simplex_kl)(torch.tensor([1.0, -1.0]))
    with pytest.raises(OptionError, match="onto: got 'cube', expected one of 'simplex'"):
        Projection("cube")


@pytest.mark.parametrize("name", ["simplex", "l1_sphere", "l1_ball"])
def test_what_comes_for_a_zero_has_no_part_in_the_gradient_even_if_infinite(name: str) -> None:
    x = torch.tensor([[1.5, 1.0, 0.0], [0.2, 0.1, 2.0]], dtype=torch.float64, requires_grad=True)
    y = SETS[name](x, 1.0)
    found = [
        torch.autograd.grad(y, x, torch.where(y == 0, w, 1.0 + x.detach()), retain_graph=True)[0]
        for w in (0.0, torch.inf)
    ]
    assert (y == 0).any() and bool(torch.isfinite(found[0]).all())
    assert_close(found[1], found[0], 0.0, "infinite beside zero")
