"""The references and the judge: they agree among themselves, and a wrong answer does not pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import families, verify
from benchmarks.families import QUICK, TIMED, make
from benchmarks.verify import Verdict

EXACT = ["simplex", "logistic", "socp", "sdp"]


@pytest.mark.parametrize("name", list(TIMED))
def test_families_are_seeded_and_disciplined(name: str) -> None:
    first, second, other = make(name, quick=True), make(name, quick=True), make(name, quick=True, seed=1)
    assert first.problem.is_dpp()
    assert all(np.array_equal(a, b) for a, b in zip(first.data, second.data, strict=True))
    assert not np.array_equal(first.data[0], other.data[0])
    for parameter, data in zip(first.parameters, first.data, strict=True):
        assert data.shape == (first.batch, *parameter.shape)
    assert set(QUICK) == set(TIMED)


@pytest.mark.parametrize("name", EXACT)
def test_exact_answers_agree_with_tight_solutions_and_their_differences(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = make(name, quick=True)
    exact = verify.make_reference(family)
    assert exact.gradients is not None
    monkeypatch.setattr(verify, "SETTLED", 1e-4)  # Clarabel's points on curved cones are good to about 1e-6
    tight = verify.make_reference(family, closed=False)
    verdict = verify.judge(tight, exact.solutions, exact.gradients)
    assert verdict.solution < 1e-5
    assert verdict.gradient < 1e-3


@pytest.mark.parametrize("closed", [True, False])
def test_one_wrong_element_is_found_and_told_with_figures(closed: bool) -> None:
    family = families.simplex(5, 6)
    right = verify.make_reference(family, closed=closed)
    exact = verify.make_reference(family)
    assert exact.gradients is not None
    assert not verify.judge(right, exact.solutions, exact.gradients).wrong
    gradient = exact.gradients[0].copy()
    gradient[-1] *= 1.5
    assert "gradient off by" in verify.judge(right, exact.solutions, (gradient,)).wrong
    solution = exact.solutions[0].copy()
    solution[2, 0] += 0.1
    assert "solution off by" in verify.judge(right, (solution,), exact.gradients).wrong


def test_faults_are_told_in_percent_and_nan_is_a_fault() -> None:
    assert Verdict(1e-9, 0.37).wrong == "wrong: gradient off by 37 %"
    assert Verdict(2.5, 1e-9).wrong == "wrong: solution off by 250 %"
    assert "not finite" in Verdict(float("nan"), 0.0).wrong
    assert Verdict(verify.SOLUTION_LIMIT, verify.GRADIENT_LIMIT).wrong == ""


def test_a_part_of_a_reference_judges_a_part_of_the_batch() -> None:
    family = families.portfolio(5, 2, 4)
    right = verify.make_reference(family, most_elements=2)
    few = right.select(right.elements)
    assert few.solutions[0].shape == (2, 5)
    zero = [np.zeros((2, *data.shape[1:])) for data in family.data]
    assert verify.judge(few, few.solutions, zero).gradient > 0.1


def test_an_element_without_tight_solution_is_refused() -> None:
    family = families.dense_qp(1, 2, 1)
    rows, limits = np.array([[[1.0], [-1.0]]]), np.array([[-1.0, -1.0]])  # x <= -1 and x >= 1
    with pytest.raises(RuntimeError, match="no reference"):
        verify.make_reference(replace(family, data=(*family.data[:2], rows, limits)))
