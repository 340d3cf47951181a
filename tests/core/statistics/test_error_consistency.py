"""Error consistency against scikit-learn's kappa and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from robustbench_coss.statistics.error_consistency import Pair, agreement, consistency


def observers(seed: int, n: int = 400, alike: float = 0.5) -> Pair:
    draw = np.random.default_rng(seed)
    hard = draw.random(n)
    a, b = (alike * hard + (1 - alike) * draw.random(n) < level for level in (0.5, 0.6))
    return a, b


def test_kappa_is_that_of_scikit_learn_on_right_and_wrong() -> None:
    runs = [[observers(0), observers(1, alike=0.0)]]
    expected = np.mean([cohen_kappa_score(a, b) for a, b in runs[0]])
    found = consistency(runs)
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.low < found.value < found.high
    assert agreement(runs)[0] == pytest.approx(np.mean([(a == b).mean() for a, b in runs[0]]))


def test_a_case_worked_by_hand() -> None:
    # Right in 3 and 2 of 4, together in 2: observed 3/4, expected 3/4 · 1/2 + 1/4 · 1/2 = 1/2.
    a, b = np.array([1, 1, 1, 0], bool), np.array([1, 1, 0, 0], bool)
    assert agreement([[(a, b)]]) == pytest.approx((0.75, 0.5))
    assert consistency([[(a, b)]]).value == pytest.approx(0.5)


@pytest.mark.parametrize("right", [np.ones(9, bool), np.zeros(9, bool), np.arange(9) < 4])
def test_who_always_agrees_has_one(right: np.ndarray) -> None:
    found = consistency([[(right, right)]])
    assert (found.value, found.high) == (1.0, 1.0)


def test_one_who_is_always_right_agrees_as_often_as_chance() -> None:
    assert consistency([[(np.ones(8, bool), np.arange(8) < 5)]]).value == pytest.approx(0)


def test_the_interval_is_as_wide_as_that_of_new_images() -> None:
    values = [consistency([[observers(seed)]]) for seed in range(200)]
    spread = np.std([v.value for v in values], ddof=1)
    width = np.mean([v.high - v.low for v in values])
    assert width == pytest.approx(2 * 1.96 * spread, rel=0.15)


def test_several_pairs_of_runs_have_the_interval_of_students_t() -> None:
    runs = [[observers(seed)] for seed in range(3)]
    found = consistency(runs)
    values = [cohen_kappa_score(*run[0]) for run in runs]
    assert (found.interval, found.seeds) == ("t", 3)
    assert found.value == pytest.approx(np.mean(values))
