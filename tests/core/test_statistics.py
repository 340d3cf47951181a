"""Intervals and tests against scipy, statsmodels, hand-worked values and their own promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_statsmodels
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from robustbench_coss.statistics import intervals
from robustbench_coss.statistics.intervals import bootstrap_mean, combine_seeds, estimate, wilson
from robustbench_coss.statistics.paired_tests import (
    difference,
    holm,
    mcnemar,
    paired_shares,
    permutation_test,
    seeds_by_images,
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


def test_an_average_of_conditions_is_bootstrapped_over_images_not_over_outcomes() -> None:
    # Two conditions that differ in one image carry hardly more than the information of one.
    column = np.arange(400) < 200
    other = np.arange(400) < 201
    both = estimate([[column, other]])
    low, high = wilson(200, 400)
    assert (both.interval, both.value) == ("bootstrap", pytest.approx(401 / 800))
    assert both.high - both.low == pytest.approx(high - low, rel=0.1)


def test_conditions_with_equal_outcomes_have_the_interval_of_one() -> None:
    column = np.arange(400) < 150
    assert estimate([[column, column, column]]) == estimate([[column]])


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


def test_a_share_that_is_the_same_for_every_image_has_the_interval_of_answers_as_frequent() -> None:
    # Every image is right under one of two conditions: 0.5 for each, as uncertain as 20 of 40.
    first = np.arange(40) < 13
    found = estimate([[first, ~first]], share=True)
    expected = stats.binomtest(20, 40).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_seeds_with_one_mean_have_the_interval_of_a_run_with_their_mean_outcomes() -> None:
    first, second = np.arange(90) < 45, np.arange(90) >= 45
    apart = estimate([[first], [np.roll(first, 9)]], share=True)
    expected = bootstrap_mean((first.astype(float) + np.roll(first, 9)) / 2)
    assert (apart.low, apart.high, apart.sd, apart.seeds) == (*expected, 0.0, 2)
    found = estimate([[first], [second]], share=True)  # half right on each image
    assert (found.low, found.high) == pytest.approx(wilson(45, 90))


def test_an_estimate_is_the_same_whatever_stands_beside_it() -> None:
    draw = np.random.default_rng(20)
    runs = [[draw.random(70) < 0.6, draw.random(70) < 0.3]]
    first = estimate(runs, share=True)
    estimate([[draw.random(70) < 0.5] * 2], share=True)
    assert estimate([[column.copy() for column in runs[0]]], share=True) == first


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


# ---- differences of two models on the same images ----

COUNTS = st.integers(0, 400)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=40)


@given(COUNTS, COUNTS)
def test_mcnemar_agrees_with_scipy_and_statsmodels(only_a: int, only_b: int) -> None:
    p = mcnemar(only_a, only_b)
    theirs = mcnemar_of_statsmodels([[7, only_a], [only_b, 9]], exact=True).pvalue
    assert p == pytest.approx(float(theirs), rel=1e-9)
    if only_a + only_b:
        assert p == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue, rel=1e-9)


def test_mcnemar_by_hand() -> None:
    # 1 against 5: 2 · (1 + 6) / 2⁶.
    assert mcnemar(1, 5) == pytest.approx(14 / 64)
    assert mcnemar(0, 0) == 1.0


def test_holm_agrees_with_statsmodels() -> None:
    draw = np.random.default_rng(7)
    for count in (1, 2, 7, 40):
        p = np.append(draw.beta(0.3, 1, count), [0.02, 0.02])  # ties too
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-12)


@given(P_VALUES)
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p: list[float]) -> None:
    corrected = holm(p)
    assert np.all(corrected >= np.array(p))
    assert np.all(corrected <= 1)
    order = np.argsort(p, kind="stable")
    assert np.all(np.diff(corrected[order]) >= 0)
    assert np.all(corrected <= np.minimum(np.array(p) * len(p), 1))  # Bonferroni


@given(P_VALUES, st.permutations(range(40)))
def test_holm_does_not_depend_on_the_order_of_the_tests(p: list[float], order: list[int]) -> None:
    order = [i for i in order if i < len(p)]
    assert holm(np.array(p)[order]).tolist() == holm(p)[order].tolist()


def test_holm_by_hand_leaves_what_is_no_test_out_of_the_count() -> None:
    corrected = holm([0.01, math.nan, 0.04, 0.03])
    assert corrected[[0, 2, 3]] == pytest.approx([0.03, 0.06, 0.06])
    assert math.isnan(corrected[1])


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(*[st.integers(0, n)] * 2, st.just(n))))
def test_the_interval_of_paired_shares_holds_the_difference_and_mirrors(
    counts: tuple[int, int, int],
) -> None:
    only_a, only_b, n = counts
    if only_a + only_b > n:
        only_a, only_b = n - only_b, n - only_a
    low, high = paired_shares(only_a, only_b, n)
    assert -1 <= low <= (only_a - only_b) / n <= high <= 1
    assert paired_shares(only_b, only_a, n) == pytest.approx((-high, -low))
    assert high - low > 0  # no certainty even where the two never disagree


def test_the_interval_of_paired_shares_by_hand() -> None:
    # 12 and 4 of 98: centre 8/100, variance (17/100 - 0.08²) / 100.
    half = 1.959964 * math.sqrt((0.17 - 0.0064) / 100)
    assert paired_shares(12, 4, 98) == pytest.approx((0.08 - half, 0.08 + half))


@pytest.mark.parametrize(("only_a", "only_b"), [(0.1, 0.1), (0.02, 0.1), (0.03, 0.01)])
def test_the_interval_of_paired_shares_covers_in_95_percent_of_repeats(
    only_a: float, only_b: float
) -> None:
    draw = np.random.default_rng(8)
    counts = draw.multinomial(200, [only_a, only_b, 1 - only_a - only_b], 2000)
    ends = np.array([paired_shares(int(a), int(b), 200) for a, b, _ in counts])
    coverage = np.mean((ends[:, 0] <= only_a - only_b) & (only_a - only_b <= ends[:, 1]))
    # Counts are whole, so that coverage is not exactly 95 % for any one share.
    assert coverage == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("kind", ["few distinct values", "all distinct"])
def test_the_permutation_test_agrees_with_all_permutations(kind: str) -> None:
    draw = np.random.default_rng(9)
    size = 90 if kind == "few distinct values" else 12
    values = draw.normal(0.4, 1.0, size)
    if kind == "few distinct values":
        values = np.clip(np.round(values), -1, 2)
    theirs = stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).pvalue
    # Both or one are Monte Carlo: standard deviations of 0.005 and less.
    assert permutation_test(values) == pytest.approx(theirs, abs=0.02)


def test_the_permutation_test_of_booleans_is_mcnemar() -> None:
    differences = np.repeat([1.0, -1.0, 0.0], [5, 14, 200])
    assert permutation_test(differences) == pytest.approx(mcnemar(5, 14), abs=0.01)


@given(arrays.arrays(float, st.integers(1, 40), elements=st.floats(-1, 1)))
def test_the_permutation_test_is_symmetric_and_never_zero(differences: np.ndarray) -> None:
    p = permutation_test(differences)
    assert 1 / 10_001 <= p <= 1
    assert permutation_test(-differences) == p
    assert permutation_test(0 * differences) == 1.0


def test_the_permutation_test_rejects_equal_models_in_5_percent_of_repeats() -> None:
    draw = np.random.default_rng(10)
    ps = [permutation_test(draw.laplace(size=30)) for _ in range(800)]
    # 2.6 standard deviations of a binomial of 800 at 5 % are 2 points.
    assert np.mean(np.array(ps) <= 0.05) == pytest.approx(0.05, abs=0.02)


def crossed(
    draw: np.random.Generator, seeds: int, common: np.ndarray, seed: float, image: float
) -> np.ndarray:
    """[seeds, n] right or wrong: what all methods find hard, images, seeds and noise of its own."""
    n = len(common)
    own = common + image * draw.standard_normal(n)
    return own + seed * draw.standard_normal((seeds, 1)) + draw.standard_normal((seeds, n)) > 0


@pytest.mark.parametrize(
    ("seeds", "seed", "image"),
    [((3, 3), 0.3, 0.5), ((5, 3), 0.2, 0.8), ((2, 2), 0.3, 0.3), ((4, 1), 0.3, 0.5)],
)
def test_seeds_by_images_covers_the_difference_in_95_percent_of_repeats(
    seeds: tuple[int, int], seed: float, image: float
) -> None:
    # Two methods alike in distribution differ by 0; images and seeds are drawn anew each time.
    draw = np.random.default_rng(11)
    hits = 0
    for _ in range(1500):
        common = draw.standard_normal(100)
        a, b = (crossed(draw, k, common, seed, image).astype(float) for k in seeds)
        found = seeds_by_images(a, b)
        hits += found.low <= 0 <= found.high
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high)
    # 2.6 standard deviations of a binomial of 1,500 at 95 % are 1.5 points.
    assert hits / 1500 == pytest.approx(0.95, abs=0.015)


def test_seeds_by_images_is_not_too_narrow_where_seeds_make_no_difference() -> None:
    draw = np.random.default_rng(12)
    hits = 0
    for _ in range(800):
        common = draw.standard_normal(100)
        a, b = (crossed(draw, 5, common, 0.0, 0.5).astype(float) for _ in range(2))
        found = seeds_by_images(a, b)
        hits += found.low <= 0 <= found.high
    assert hits / 800 > 0.93


@pytest.mark.filterwarnings("ignore:Precision loss")  # seeds that happen to agree
def test_welch_over_seeds_alone_is_too_narrow_where_images_matter() -> None:
    # What the images are for: a method that is better on half of them.
    draw = np.random.default_rng(13)
    hits = welch = 0
    for _ in range(600):
        common = draw.standard_normal(60)
        a, b = (crossed(draw, 4, common, 0.05, 2.0).astype(float) for _ in range(2))
        found = seeds_by_images(a, b)
        hits += found.low <= 0 <= found.high
        ends = stats.ttest_ind(a.mean(1), b.mean(1), equal_var=False).confidence_interval(0.95)
        welch += ends.low <= 0 <= ends.high
    assert hits / 600 > 0.93 > 0.85 > welch / 600


def test_seeds_by_images_is_welch_where_images_make_no_difference() -> None:
    a, b = (np.array(s)[:, None] + np.zeros(7) for s in ([0.7, 0.72, 0.8], [0.6, 0.65, 0.61, 0.7]))
    found = seeds_by_images(a, b)
    welch = stats.ttest_ind(a[:, 0], b[:, 0], equal_var=False)
    ends = welch.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((ends.low, ends.high, welch.pvalue))


def test_seeds_by_images_is_the_paired_t_test_where_seeds_make_no_difference() -> None:
    draw = np.random.default_rng(14)
    a, b = draw.random(50), draw.random(50)
    found = seeds_by_images(np.stack([a, a]), np.stack([b, b, b]))
    paired = stats.ttest_rel(a, b)
    ends = paired.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((ends.low, ends.high, paired.pvalue))


def test_seeds_by_images_adds_components_that_analysis_of_variance_finds() -> None:
    # 2 seeds × 3 images against zeros, by hand: seed means 2 and 4, image means 2, 3, 4,
    # residuals ±(1, 0, -1) / 2 · 2, mean square 4 · 1 / 2 = 2.
    a = np.array([[2.0, 2.0, 2.0], [2.0, 4.0, 6.0]])
    found = seeds_by_images(a, np.zeros((2, 3)))
    seeds, images, residual = 2 / 2, 1 / 3, 2 / (2 * 3)
    variance = max(seeds + images - residual, seeds, images)
    freedom = variance**2 / (seeds**2 / 1 + images**2 / 2 + residual**2 / 2)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert (found.value, found.high - found.value) == pytest.approx((3.0, half))


MATRICES = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 12)).flatmap(
    lambda s: st.tuples(*(arrays.arrays(float, (k, s[2]), elements=st.floats(0, 1)) for k in s[:2]))
)


@given(MATRICES, st.booleans())
def test_a_difference_holds_its_estimate_and_mirrors(
    runs: tuple[np.ndarray, np.ndarray], right_or_wrong: bool
) -> None:
    a, b = ((list(x > 0.5) if right_or_wrong else list(x)) for x in runs)
    found, mirrored = difference(a, b, share=True), difference(b, a, share=True)
    assert found.value == pytest.approx(np.mean(a) - np.mean(b), abs=1e-12)
    assert mirrored.value == pytest.approx(-found.value, abs=1e-12)
    assert mirrored.p == pytest.approx(found.p, nan_ok=True)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), nan_ok=True)
    assert mirrored.test == found.test
    if not math.isnan(found.low):
        assert -1 <= found.low <= found.value + 1e-12
        assert found.value - 1e-12 <= found.high <= 1


def test_the_bootstrap_of_a_paired_difference_agrees_with_scipy() -> None:
    draw = np.random.default_rng(15)
    a, b = draw.random(150), draw.random(150)
    found = difference([a], [b])
    theirs = stats.bootstrap(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        paired=True,
        n_resamples=9_999,
        method="percentile",
        rng=draw,
    ).confidence_interval
    # Quantiles of 2,000 draws; see above.
    width = theirs.high - theirs.low
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.06 * width)


def test_the_kind_of_test_follows_from_the_runs() -> None:
    right, number = np.arange(9) < 4, np.linspace(0, 1, 9)
    assert difference([right], [~right]).test == "mcnemar"
    assert difference([right], [number]).test == "permutation"
    assert difference([right, ~right], [right]).test == "t"
    assert difference([right, right], [right, right]).p == 1.0


@pytest.mark.parametrize("seeds", [2, 5])
def test_seeds_without_variance_are_tested_by_their_images(seeds: int) -> None:
    # One is right on all 20 images in every run, the other on none: 20 against 0, 2 / 2²⁰.
    right = np.ones(20, bool)
    found = difference([right] * seeds, [~right] * seeds, share=True)
    assert (found.value, found.test) == (1.0, "mcnemar")
    assert found.p == pytest.approx(2 / 2**20)
    assert found.low < 1 == found.high
    # Numbers: of signs only 1 in 10,001 can be as far.
    numbers = difference([np.full(20, 3.0)] * seeds, [np.full(20, 1.0)] * seeds)
    assert (numbers.value, numbers.test) == (2.0, "permutation")
    assert 0 < numbers.p < 0.001


def test_equal_differences_of_shares_have_an_interval_with_width() -> None:
    # Half of the conditions turn from right to wrong on every image: as 20 of 40 against none.
    a, b = np.full(40, 0.75), np.full(40, 0.25)
    found, mirrored = difference([a], [b], share=True), difference([b], [a], share=True)
    assert (found.low, found.high) == pytest.approx(paired_shares(20, 0, 40))
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))
    same = difference([a], [a], share=True)
    assert (same.p, same.low) == (1.0, pytest.approx(-same.high))
    assert same.high > 0


def test_a_paired_test_is_the_same_whatever_stands_beside_it() -> None:
    draw = np.random.default_rng(21)
    a, b = draw.random(60), draw.random(60)
    first = difference([a], [b], share=True)
    difference([b], [draw.random(60)])
    assert difference([a.copy()], [b.copy()], share=True) == first


def test_undefined_values_give_no_interval_and_no_p() -> None:
    broken = np.array([0.1, math.nan, 0.3])
    for runs in ([broken], [broken, broken]):
        found = difference(runs, [np.zeros(3)])
        assert all(map(math.isnan, (found.value, found.low, found.high, found.p)))
    assert math.isnan(seeds_by_images(np.ones((2, 1)), np.zeros((2, 1))).p)


@pytest.mark.parametrize("runs", [([], [np.ones(3)]), ([np.ones(2)], [np.ones(3)])])
def test_differences_of_other_images_are_refused(runs: tuple[list, list]) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match="same images"):
        difference(*runs)
    with pytest.raises(ValueError, match="two seeds"):
        seeds_by_images(np.ones((1, 3)), np.ones((1, 3)))
