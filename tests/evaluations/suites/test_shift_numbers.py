"""Numbers of the suite `shift` whose mean and spread are those of a difference and of a ratio."""

from __future__ import annotations

import numpy as np
import pytest

from robustbench_coss.evaluations.suites.shift import drop_of, shape_bias
from robustbench_coss.statistics.intervals import estimate


def test_an_unpaired_drop_has_the_mean_and_the_spread_of_a_difference_of_two_means() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random(400) < 0.8, rng.random(900) < 0.3
    values = drop_of(x, [y], paired=False)
    assert values.mean() == pytest.approx(100 * (x.mean() - y.mean()), abs=1e-4)
    variance = 100**2 * (x.var() / len(x) + y.var() / len(y))
    assert values.astype(float).var() / len(values) == pytest.approx(variance, rel=1e-4)
    found = estimate([[values]])
    assert found.high - found.low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.1)


def test_a_paired_drop_is_image_by_image_over_conditions() -> None:
    clean, shifted = np.array([True, True, False]), np.array([[1, 0, 0], [0, 0, 1]], bool)
    assert drop_of(clean, list(shifted), paired=True).tolist() == [50.0, 100.0, -50.0]


def test_shape_bias_by_hand() -> None:
    shape = np.array([1, 1, 1, 0, 0, 0], bool)
    texture = np.array([0, 0, 0, 1, 0, 0], bool)
    values = shape_bias(shape, texture)
    assert values.mean() == pytest.approx(3 / 4)
    # Delta method: the spread of s - R (s + t), over the mean of s + t, is that of R.
    residual = (shape - 0.75 * (shape | texture)) / (4 / 6)
    assert values.astype(float).var() == pytest.approx(residual.var(), rel=1e-5)
    assert shape_bias(shape & False, texture & False).tolist() == [0.0] * 6


def test_a_drop_below_zero_has_an_interval_that_reaches_below_zero() -> None:
    clean, shifted = np.zeros(60, bool), np.arange(60) % 3 == 0
    found = estimate([[drop_of(clean, [shifted], paired=True)]])
    assert found.value == pytest.approx(-100 / 3, abs=1e-4)
    assert found.low < found.value < found.high < 0
