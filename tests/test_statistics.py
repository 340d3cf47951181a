"""Intervals against scipy, hand-worked values and their own promise of coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from robustbench_coss.statistics import bootstrap_mean, combine_seeds, estimate, wilson


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy(counts: tuple[int, int]) -> None:
    low, high = wilson(*counts)
    expected = stats.binomtest(*counts).proportion_ci(0.95, method="wilson")
    assert float(low) == pytest.approx(expected.low, abs=1e-12)
    assert float(high) == pytest.approx(expected.high, abs=1e-12)


@given(
    st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.floats(0.5, 0.98),
)
def test_wilson_holds_the_share_mirrors_and_widens_with_confidence(
    counts: tuple[int, int], confidence: float
) -> None:
    successes, n = counts
    low, high = wilson(successes, n, confidence)
    assert 0 <= low <= successes / n <= high <= 1
    mirrored = wilson(n - successes, n, confidence)
    assert float(mirrored[0]) == pytest.approx(1 - float(high), abs=1e-12)
    wider = wilson(successes, n, confidence + 0.01)
    assert wider[0] <= low
    assert wider[1] >= high


def test_wilson_broadcasts_over_arrays() -> None:
    low, high = wilson(np.array([0, 5, 10]), 10)
    assert low.shape == high.shape == (3,)
    assert low[0] == 0.0
    assert high[2] == 1.0
    assert low[1] == pytest.approx(0.236593, abs=1e-6)  # 5 of 10, Wilson without continuity


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 4), (5, 4)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson(successes, n)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_must_lie_between_zero_and_one(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        wilson(1, 2, confidence)


def test_wilson_covers_the_true_share_in_95_percent_of_repeats() -> None:
    draw = np.random.default_rng(1)
    for share in (0.1, 0.5, 0.715):
        low, high = wilson(draw.binomial(200, share, size=4000), 200)
        coverage = np.mean((low <= share) & (share <= high))
        assert 0.93 < coverage < 0.97


@pytest.mark.parametrize("kind", ["few distinct values", "all distinct"])
def test_bootstrap_agrees_with_scipy(kind: str) -> None:
    draw = np.random.default_rng(2)
    values = draw.gamma(2.0, size=300)
    if kind == "few distinct values":
        values = np.minimum(np.round(values), 4) / 4
    ours = bootstrap_mean(values, "test", resamples=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=draw
    ).confidence_interval
    # Two Monte Carlo quantiles of 20,000 draws differ by about 2 % of the interval's width.
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.05 * (theirs.high - theirs.low))


def test_bootstrap_covers_the_true_mean_in_about_95_percent_of_repeats() -> None:
    draw = np.random.default_rng(3)
    hits = 0
    for repeat in range(300):
        low, high = bootstrap_mean(draw.random(60), repeat, resamples=400)
        hits += low <= 0.5 <= high
    assert 0.90 < hits / 300 < 0.98


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_bootstrap_stays_within_the_range_of_the_values(values: list[float]) -> None:
    low, high = bootstrap_mean(values, "range", resamples=50)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_bootstrap_depends_on_its_names_and_not_on_the_order_of_calls() -> None:
    values = np.random.default_rng(4).random(500)
    first = bootstrap_mean(values, "model", "suite")
    bootstrap_mean(values, "other")
    assert bootstrap_mean(values, "model", "suite") == first
    assert bootstrap_mean(values, "model", "other suite") != first


def test_bootstrap_of_equal_values_has_no_width() -> None:
    assert bootstrap_mean([0.25] * 9, "x") == (0.25, 0.25)


def test_bootstrap_of_undefined_values_is_undefined() -> None:
    assert all(math.isnan(end) for end in bootstrap_mean([1.0, math.nan], "x"))


def test_bootstrap_needs_values() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_mean([], "x")


def test_bootstrap_in_chunks_stays_within_bounds_of_memory() -> None:
    import tracemalloc

    values = np.random.default_rng(5).random(100_000)
    tracemalloc.start()
    bootstrap_mean(values, "memory", resamples=60)
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


def test_an_average_of_conditions_is_bootstrapped_over_images_not_over_outcomes() -> None:
    # Two conditions with equal outcomes carry the information of one: no narrower interval.
    column = np.arange(400) < 200
    twice = estimate([[column, column]], "x")
    low, high = wilson(200, 400)
    assert (twice.interval, twice.value) == ("bootstrap", 0.5)
    assert twice.high - twice.low == pytest.approx(float(high - low), rel=0.1)


def test_a_numeric_column_is_bootstrapped() -> None:
    result = estimate([[np.random.default_rng(6).random(200)]], "x")
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
