"""Contrasts and rank correlations against hand-worked cases, scipy and simulations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from robustbench_coss.statistics.contrasts import contrast, rank_correlation
from robustbench_coss.statistics.paired_tests import seeds_by_images


@given(st.integers(2, 4), st.integers(1, 4), st.integers(2, 12), st.integers(0, 10**6))
def test_a_contrast_of_two_configurations_is_their_difference(
    k_a: int, k_b: int, n: int, draw: int
) -> None:
    generator = np.random.default_rng(draw)
    a, b = generator.random((k_a, n)), generator.random((k_b, n))
    found, expected = contrast([a, b], [1, -1]), seeds_by_images(a, b)
    assert found.value == pytest.approx(expected.value, abs=1e-12)
    assert (found.low, found.high, found.p) == pytest.approx(
        (expected.low, expected.high, expected.p), rel=1e-9, abs=1e-9
    )


def test_a_contrast_of_constant_images_is_student_t_over_seeds() -> None:
    # Variances of seed means .02, 0 and, of the single run, their mean .01.
    runs = [np.tile(np.array(s)[:, None], (1, 50)) for s in ([0.8, 0.6], [0.5, 0.5], [0.4])]
    found = contrast(runs, [1, 0.5, -0.5])
    from_a, from_single = 0.02 / 2, 0.25 * 0.02 / 2  # of which b's half is 0
    freedom = 1.0  # everything comes from the two seeds of a
    half = stats.t.ppf(0.975, freedom) * math.sqrt(from_a + from_single)
    assert found.value == pytest.approx(0.7 + 0.25 - 0.2)
    assert (found.low, found.high) == pytest.approx((0.75 - half, 0.75 + half))


def test_intervals_of_a_contrast_of_four_hold_the_truth_in_95_of_100_cases() -> None:
    generator, held, cases = np.random.default_rng(5), 0, 600
    weights = [0.5, -0.5, 0.5, -0.5]
    for _ in range(cases):
        image = generator.standard_normal(100)  # hard for all models alike, but not equally so
        groups = [
            scale * image
            + 0.1 * generator.standard_normal((k, 1))
            + 0.5 * generator.standard_normal((k, 100))
            for k, scale in ((3, 1.3), (4, 1.0), (3, 1.2), (2, 1.0))
        ]
        found = contrast(groups, weights)
        held += found.low <= 0 <= found.high
    assert 0.93 <= held / cases <= 0.985


def test_contrast_refuses_what_it_cannot_tell() -> None:
    with pytest.raises(ValueError, match="two seeds"):
        contrast([np.zeros((1, 5)), np.zeros((1, 5))], [1, -1])
    with pytest.raises(ValueError, match="same images"):
        contrast([np.zeros((2, 5)), np.zeros((2, 4))], [1, -1])
    with pytest.raises(ValueError, match="weight per group"):
        contrast([np.zeros((2, 5))], [1, -1])


def test_a_rank_correlation_has_the_interval_worked_by_hand() -> None:
    found = rank_correlation([1, 2, 3, 4, 5], [20, 10, 40, 30, 50])
    assert found.value == pytest.approx(1 - 6 * 4 / (5 * 24))  # 0.8
    z, half = 1.0986123, 1.9599640 * math.sqrt((1 + 0.64 / 2) / 2)
    assert (found.low, found.high) == pytest.approx((math.tanh(z - half), math.tanh(z + half)))


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlations_agree_with_scipy(ties: bool) -> None:
    generator = np.random.default_rng(3)
    x, y = generator.random((2, 6))
    if ties:
        x, y = np.round(x * 2), np.round(y * 3)
    found = rank_correlation(x, y)
    rho = stats.spearmanr(x, y).statistic
    assert found.value == pytest.approx(rho)
    exact = stats.permutation_test(
        (x,), lambda x: stats.spearmanr(x, y).statistic, permutation_type="pairings"
    )
    assert found.p == pytest.approx(exact.pvalue)


def test_many_models_are_ordered_at_random_and_few_in_every_way() -> None:
    assert rank_correlation(range(4), range(4)).p == pytest.approx(2 / math.factorial(4))
    x = np.random.default_rng(0).random((2, 30))
    found = rank_correlation(*x)
    assert found == rank_correlation(*(v[::-1] for v in x))
    assert found.p == pytest.approx(stats.spearmanr(*x).pvalue, abs=0.02)
    assert rank_correlation(range(30), range(30)).p == pytest.approx(1 / 10_001)


@given(st.lists(st.integers(0, 9), min_size=4, max_size=8), st.randoms())
def test_a_rank_correlation_lies_in_its_interval_and_turns_with_the_sign(
    x: list[int], random: Any
) -> None:
    y = random.sample(range(20), len(x))
    found, back = rank_correlation(x, y), rank_correlation(x, [-v for v in y])
    if len(set(x)) == 1:
        assert math.isnan(found.value)
        assert math.isnan(found.p)
        return
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    assert (back.value, back.low, back.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )
    assert back.p == pytest.approx(found.p)


def test_three_models_have_no_rank_correlation() -> None:
    with pytest.raises(ValueError, match="4 or more"):
        rank_correlation([1, 2, 3], [1, 2, 3])
