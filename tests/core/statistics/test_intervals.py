"""Intervals against scipy, statsmodels, hand-worked values and their own promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from robustbench_coss.statistics import intervals
from robustbench_coss.statistics.intervals import (
    agresti_coull,
    bootstrap_mean,
    combine_seeds,
    estimate,
    remembered,
    wilson,
)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_statsmodels_and_the_formula(counts: tuple[int, int]) -> None:
    low, high = wilson(*counts)
    assert (low, high) == pytest.approx(proportion_confint(*counts, method="wilson"), abs=1e-12)
    # Wilson 1927: the shares p with |k/n - p| = z sqrt(p (1 - p) / n).
    k, n = counts
    for p in (low, high):
        reach = stats.norm.ppf(0.975) * math.sqrt(max(p * (1 - p), 0) / n)
        assert p in (0, 1) or abs(k / n - p) == pytest.approx(reach, abs=1e-9)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(counts: tuple[int, int]) -> None:
    successes, n = counts
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    mirrored = wilson(n - successes, n)
    assert mirrored[0] == pytest.approx(1 - high, abs=1e-12)


def test_wilson_ends_exactly_at_0_and_1() -> None:
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 4), (5, 4)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=r"n|k|successes"):
        wilson(successes, n)


def test_wilson_covers_the_true_share_in_95_percent_of_repeats() -> None:
    draw = np.random.default_rng(1)
    for share in (0.1, 0.5, 0.715):
        ends = np.array([wilson(int(k), 200) for k in draw.binomial(200, share, size=4000)])
        coverage = np.mean((ends[:, 0] <= share) & (share <= ends[:, 1]))
        assert 0.93 < coverage < 0.97


@pytest.mark.parametrize("kind", ["few distinct values", "all distinct"])
def test_bootstrap_agrees_with_scipy(kind: str) -> None:
    draw = np.random.default_rng(2)
    values = draw.gamma(2.0, size=300)
    if kind == "few distinct values":
        values = np.minimum(np.round(values), 4) / 4
    ours = bootstrap_mean(values)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=draw
    ).confidence_interval
    # A quantile of 2,000 draws is known to about 3 % of the interval's width.
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.08 * (theirs.high - theirs.low))


def test_bootstrap_covers_the_true_mean_in_about_95_percent_of_repeats() -> None:
    draw = np.random.default_rng(3)
    hits = 0
    for _ in range(300):
        low, high = bootstrap_mean(draw.random(60))
        hits += low <= 0.5 <= high
    assert 0.90 < hits / 300 < 0.98


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_bootstrap_stays_within_the_range_of_the_values(values: list[float]) -> None:
    low, high = bootstrap_mean(values)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_bootstrap_depends_on_its_values_and_not_on_what_was_drawn_before() -> None:
    values = np.random.default_rng(4).random(500)
    first = bootstrap_mean(values)
    bootstrap_mean(values[::-1])
    assert bootstrap_mean(values.astype(np.float64).copy()) == first
    assert bootstrap_mean(values[::-1]) != first  # other images, another draw


def test_bootstrap_of_equal_values_has_no_width() -> None:
    assert bootstrap_mean([0.25] * 9) == (0.25, 0.25)


def test_bootstrap_of_undefined_values_is_undefined() -> None:
    assert all(math.isnan(end) for end in bootstrap_mean([1.0, math.nan]))


def test_bootstrap_needs_values() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_mean([])


def test_bootstrap_in_chunks_stays_within_bounds_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    monkeypatch.setattr(intervals, "RESAMPLES", 60)
    values = np.random.default_rng(5).random(100_000)
    tracemalloc.start()
    bootstrap_mean(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6  # all 60 × 100,000 indices and values at once would be 96 MB


def test_combined_seeds_equal_the_textbook_t_interval() -> None:
    # 70, 72, 74: mean 72, sd 2, t(0.975, 2) = 4.30265, half-width 4.30265 * 2 / sqrt(3).
    mean, sd, (low, high) = combine_seeds([70.0, 72.0, 74.0])
    assert (mean, sd) == (72.0, 2.0)
    assert high - mean == pytest.approx(4.30265 * 2 / math.sqrt(3), abs=1e-4)
    assert mean - low == pytest.approx(high - mean)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_combined_seeds_agree_with_scipy(values: list[float]) -> None:
    mean, sd, ends = combine_seeds(values)
    if sd < 1e-9:
        assert ends == pytest.approx((mean, mean), abs=1e-6)
    else:
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert ends == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-9)


def test_one_seed_cannot_be_combined() -> None:
    with pytest.raises(ValueError, match="at least two"):
        combine_seeds([0.7])


def test_one_boolean_condition_gets_a_wilson_interval() -> None:
    column = np.arange(100) < 30
    result = estimate([[column]])
    expected = stats.binomtest(30, 100).proportion_ci(method="wilson")
    assert (result.interval, result.seeds, result.value) == ("wilson", 1, 0.3)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))
    assert math.isnan(result.sd)


def test_an_average_of_conditions_is_of_images_not_of_outcomes() -> None:
    # Two conditions that differ in one image carry hardly more than the information of one.
    column = np.arange(400) < 200
    other = np.arange(400) < 201
    both = estimate([[column, other]])
    low, high = wilson(200, 400)
    assert (both.interval, both.value) == ("agresti-coull", pytest.approx(401 / 800))
    assert both.high - both.low == pytest.approx(high - low, rel=0.01)


def test_the_interval_of_an_average_of_conditions_worked_by_hand() -> None:
    # Of 50 images 40 are right under both of two conditions, 6 under one: sum 43, squares 41.5.
    first, second = np.arange(50) < 46, np.arange(50) < 40
    found = estimate([[first, second]], share=True)
    more = 1.959964**2 / 2  # images that are right, and as many that are wrong
    n = 50 + 2 * more
    centre = (43 + more) / n
    half = 1.959964 * math.sqrt(((41.5 + more) / n - centre**2) / n)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half))
    assert found.interval == "agresti-coull"


@given(st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0]), min_size=1, max_size=60))
def test_the_interval_of_a_share_holds_it_and_has_a_width(values: list[float]) -> None:
    low, high = agresti_coull(np.array(values))
    assert 0 <= low <= np.mean(values) + 1e-12
    assert np.mean(values) - 1e-12 <= high <= 1
    assert high - low > 1.5 / (len(values) + 4)
    mirrored = agresti_coull(1 - np.array(values))
    assert mirrored == pytest.approx((1 - high, 1 - low))


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_right_and_wrong_answers_have_the_interval_of_statsmodels(counts: tuple[int, int]) -> None:
    hits, n = counts
    expected = proportion_confint(hits, n, method="agresti_coull")
    found = agresti_coull((np.arange(n) < hits).astype(float))
    assert found == pytest.approx(np.clip(expected, 0, 1), abs=1e-12)


@pytest.mark.parametrize("expected", [0, 1, 2])
def test_intervals_of_worst_cases_hold_the_truth_near_0(expected: int) -> None:
    # 500 images, of which so many are expected to be right under some of five nested budgets.
    draw, cases, held = np.random.default_rng(expected), 1000, 0
    truth = expected / 500 * 3 / 5  # of those right under some, 1 to 5 alike
    for _ in range(cases):
        right = draw.random(500) < expected / 500
        budgets = right * draw.integers(1, 6, 500)
        found = estimate([[budgets > k for k in range(5)]], share=True)
        held += found.low <= truth <= found.high
        assert found.high > 0
    # 2.6 standard deviations of a binomial of 1,000 at 95 % are 1.8 points.
    assert held / cases > 0.95 - 0.018


def test_conditions_with_equal_outcomes_have_the_interval_of_one() -> None:
    column = np.arange(400) < 150
    assert repr(estimate([[column, column, column]])) == repr(estimate([[column]]))  # NaN in both


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("seeds", [1, 3])
def test_outcomes_that_are_all_wrong_or_right_have_the_interval_of_that_many_images(
    right: bool, seeds: int
) -> None:
    budgets = [np.full(250, right)] * 6
    found = estimate([budgets] * seeds, share=True)
    expected = stats.binomtest(250 * right, 250).proportion_ci(0.95, method="wilson")
    assert found.value == float(right)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.high - found.low > 0.01
    assert found.seeds == seeds


def test_a_share_that_is_the_same_for_every_image_has_an_interval_with_width() -> None:
    # Every image is right under one of two conditions: only the z² added images vary.
    first = np.arange(40) < 13
    found = estimate([[first, ~first]], share=True)
    half = 1.959964 * math.sqrt(1.959964**2 / 4) / (40 + 1.959964**2)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))


def test_seeds_with_one_mean_have_the_interval_of_a_run_with_their_mean_outcomes() -> None:
    first, second = np.arange(90) < 45, np.arange(90) >= 45
    apart = estimate([[first], [np.roll(first, 9)]], share=True)
    expected = agresti_coull((first.astype(float) + np.roll(first, 9)) / 2)
    assert (apart.low, apart.high, apart.sd, apart.seeds) == (*expected, 0.0, 2)
    found = estimate([[first], [second]], share=True)  # half right on each image
    assert (found.low, found.high) == agresti_coull(np.full(90, 0.5))


def test_an_estimate_is_the_same_whatever_stands_beside_it() -> None:
    draw = np.random.default_rng(20)
    runs = [[draw.random(70) < 0.6, draw.random(70) < 0.3]]
    first = estimate(runs, share=True)
    estimate([[draw.random(70) < 0.5] * 2], share=True)
    again = estimate([[column.copy() for column in runs[0]]], share=True)
    assert repr(again) == repr(first)  # both have NaN, which is no number's equal


def test_a_numeric_column_is_bootstrapped() -> None:
    result = estimate([[np.random.default_rng(6).random(200)]])
    assert result.interval == "bootstrap"
    assert result.low < result.value < result.high


def test_several_seeds_use_the_t_interval_of_their_means() -> None:
    runs = [[np.arange(10) < k] for k in (5, 6, 7)]
    result = estimate(runs)
    mean, sd, ends = combine_seeds([0.5, 0.6, 0.7])
    assert (result.value, result.sd, result.low, result.high) == pytest.approx((mean, sd, *ends))
    assert (result.interval, result.seeds) == ("t", 3)


def test_a_share_has_no_interval_beyond_zero_and_one() -> None:
    runs = [[np.arange(10) < k] for k in (8, 10)]
    assert estimate(runs, share=True).high == 1.0
    assert estimate(runs).high > 1.0


def test_a_single_image_has_no_bootstrap_interval() -> None:
    result = estimate([[np.array([0.4])]])
    assert result.value == 0.4
    assert math.isnan(result.low)
    assert math.isnan(result.high)


def test_what_is_remembered_is_computed_once_for_the_same_numbers_only() -> None:
    asked: list[int] = []

    @remembered
    def total(values: np.ndarray) -> float:
        asked.append(len(values))
        return float(values.sum())

    values = np.arange(6.0)
    assert [total(values), total(list(range(6))), total(values)] == [15.0] * 3
    assert asked == [6]
    values[0] = 1.0  # the same array, other numbers
    assert total(values) == 16.0
    assert total(np.array([1.0, 15.0])) == total(np.array([15.0, 1.0])) == 16.0
    assert asked == [6, 6, 2, 2]
