"""Rank correlations against hand-worked cases, scipy and simulations."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from robustbench_coss.statistics.ranks import rank_correlation


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


@settings(deadline=None)  # all orders of 8 are made once
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


# ---- families ----


def test_orders_keep_families_together() -> None:
    # By hand: of 5! orders those that keep (0 1), (2 3) and 4 together, swapped or not: 2 · 2 · 2.
    x, y, families = [1, 2, 3, 4, 5], [2, 1, 4, 5, 3], ["a", "a", "b", "b", "c"]
    rho = stats.spearmanr(x, y).statistic
    as_far = count = 0
    for order in permutations(range(5)):
        pairs = {tuple(sorted(order[:2])), tuple(sorted(order[2:4]))}
        if pairs == {(0, 1), (2, 3)}:
            count += 1
            as_far += abs(stats.spearmanr(x, np.array(y)[list(order)]).statistic) >= abs(rho) - 1e-9
    assert count == 8
    found = rank_correlation(x, y, families)
    assert (found.value, found.p) == (pytest.approx(rho), as_far / 8)
    assert math.isnan(found.low)  # three families say nothing of a spread
    turned = rank_correlation(x[::-1], y[::-1], families[::-1])
    assert (turned.value, turned.p) == (pytest.approx(found.value), found.p)


def test_the_interval_counts_families() -> None:
    x, y = list(range(12)), [1, 0, 2, 5, 4, 3, 6, 8, 7, 9, 11, 10]
    found = rank_correlation(x, y, [i // 2 for i in range(12)])
    rho = stats.spearmanr(x, y).statistic
    half = stats.norm.ppf(0.975) * math.sqrt((1 + rho**2 / 2) / (6 - 3))
    assert found.low == pytest.approx(math.tanh(math.atanh(rho) - half))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[2] * 7, [3, 3, 4, 4], [1] * 10])
def test_at_most_5_of_100_studies_of_families_find_a_correlation_that_is_not(
    sizes: list[int],
) -> None:
    draw, cases = np.random.default_rng(21), 300
    family = np.repeat(np.arange(len(sizes)), sizes)
    decided = naive = 0
    for _ in range(cases):  # intra-class correlation 0.8 in both
        x, y = (
            math.sqrt(0.8) * draw.standard_normal(len(sizes))[family]
            + math.sqrt(0.2) * draw.standard_normal(len(family))
            for _ in range(2)
        )
        decided += rank_correlation(x, y, list(family)).p <= 0.05
        naive += stats.spearmanr(x, y).pvalue <= 0.05
    # 2.6 standard deviations of a binomial of 300 at 5 % are 3.3 points.
    assert decided / cases < 0.083
    if len(sizes) < len(family):
        assert naive / cases > 0.09  # what families are for


def test_a_strong_correlation_over_families_is_found() -> None:
    families = [i // 2 for i in range(14)]
    x = np.arange(14.0)
    y = x + np.tile([0.4, -0.4], 7)
    found = rank_correlation(x, y, families)
    assert found.p < 0.001
    assert found.low > 0.5
