"""When outcomes measured again agree with those recorded."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from robustbench_coss.evaluations.submissions.agreement import (
    ALPHA,
    OTHER,
    SAME,
    Pair,
    corrected,
    try_pairs,
)
from robustbench_coss.evaluations.submissions.report import Finding, Report


def booleans(n: int, right: int) -> np.ndarray[Any, Any]:
    return np.arange(n) < right


def test_the_share_that_differs_is_held_against_a_binomial() -> None:
    a, b = booleans(200, 100), booleans(200, 97)  # three images differ, all recorded higher
    trial = try_pairs("", [Pair(a, b)], 0.01)
    assert (trial.differ, trial.higher, trial.lower) == (3, 3, 0)
    below = sum(math.comb(200, k) * 0.01**k * 0.99 ** (200 - k) for k in range(3))
    assert trial.p_share == pytest.approx(1 - below, rel=1e-9)
    assert trial.p_direction == pytest.approx(2 * 0.5**3)


def test_an_image_counts_once_however_many_of_its_outcomes_differ() -> None:
    a, b = booleans(100, 50), booleans(100, 46)
    trial = try_pairs("", [Pair(a, b)] * 5, 0.002)
    assert (trial.differ, trial.higher) == (4, 4)
    below = sum(math.comb(100, k) * 0.01**k * 0.99 ** (100 - k) for k in range(4))
    assert trial.p_share == pytest.approx(1 - below, rel=1e-9)  # 5 × 0.2 % by Boole
    # Turned up in one cell and down in another: no direction.
    trial = try_pairs("", [Pair(a, b), Pair(b, a)], 0.002)
    assert (trial.differ, trial.higher, trial.lower) == (4, 0, 0)
    assert trial.p_direction == 1


def test_equal_outcomes_give_no_evidence_at_all() -> None:
    a = booleans(50, 20)
    trial = try_pairs("", [Pair(a, a.copy())], SAME)
    assert (trial.p_share, trial.p_direction) == (1, 1)


def test_numbers_are_equal_within_two_percent_of_their_spread() -> None:
    a = np.array([0.0, 1.0] * 50, np.float32)  # standard deviation 0.5, so within 0.01
    shift = np.zeros(100, np.float32)
    shift[:5] = [0.009, 0.012, -0.012, math.nan, 0.0]
    assert Pair(a, a + shift).sign[:5].tolist() == [0, -1, 1, 1, 0]
    both = np.array([math.nan, 1.0, 2.0], np.float32)
    assert Pair(both, both).sign.tolist() == [0, 0, 0]
    constant = np.full(4, 0.7, np.float32)
    assert not Pair(constant, constant * np.float32(1 + 1e-6)).sign.any()
    assert Pair(constant, constant * np.float32(1.01)).sign.all()


def test_columns_of_other_lengths_are_no_pair() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) outcomes recorded, \(3,\) again"):
        _ = Pair(booleans(2, 1), booleans(3, 1)).sign


def test_a_mean_outside_the_recorded_interval_fails_its_cell() -> None:
    a = booleans(400, 200)  # Wilson: 45.1 … 54.9 %
    assert Pair(a, booleans(400, 185)).inside
    assert not Pair(a, booleans(400, 178)).inside


def simulated(
    draw: np.random.Generator, cells: int, n: int, turned: float, flattery: float
) -> list[Pair]:
    """Cells at 60 % in which rounding turned outcomes, and some wrong ones were made right."""
    pairs = []
    for _ in range(cells):
        truth = draw.random(n) < 0.6
        again = truth ^ (draw.random(n) < turned)
        pairs.append(Pair(truth | (draw.random(n) < flattery), again))
    return pairs


def fails(pairs: list[Pair], share: float) -> bool:
    trials = [try_pairs("", [pair], share) for pair in pairs] + [try_pairs("", pairs, share)]
    return any(min(p) < ALPHA for p in corrected(trials))


@pytest.mark.parametrize(("share", "turned"), [(OTHER, 0.005), (SAME, 0.0)])
def test_rounding_hardly_ever_fails_a_bundle_and_flattery_hardly_ever_passes(
    share: float, turned: float
) -> None:
    draw = np.random.default_rng(1)
    alarms = sum(fails(simulated(draw, 5, 1000, turned, 0.0), share) for _ in range(200))
    assert alarms <= 8  # 1 % of 200 is 2; more than 8 has a chance below 0.1 %
    caught = sum(fails(simulated(draw, 5, 1000, turned, 0.05), share) for _ in range(100))
    assert caught == 100


def test_a_report_with_one_wrong_line_is_not_reproduced() -> None:
    assert Report(0, [Finding(True, "")]).reproduced
    assert not Report(0, [Finding(True, ""), Finding(False, "x")]).reproduced
