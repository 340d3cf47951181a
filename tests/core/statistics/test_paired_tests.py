"""Paired tests against scipy, statsmodels and hand-worked values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_statsmodels
from statsmodels.stats.multitest import multipletests

from robustbench_coss.statistics.contrasts import difference
from robustbench_coss.statistics.paired_tests import (
    holm,
    mcnemar,
    paired_shares,
    permutation_test,
)

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


@pytest.mark.slow
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
    low, high = paired_shares(only_a - only_b, only_a + only_b, n)
    assert -1 <= low <= (only_a - only_b) / n <= high <= 1
    assert paired_shares(only_b - only_a, only_a + only_b, n) == pytest.approx((-high, -low))
    assert high - low > 0  # no certainty even where the two never disagree


def test_the_interval_of_paired_shares_by_hand() -> None:
    # 12 and 4 of 98: centre 8/100, variance (17/100 - 0.08²) / 100.
    half = 1.959964 * math.sqrt((0.17 - 0.0064) / 100)
    assert paired_shares(8, 16, 98) == pytest.approx((0.08 - half, 0.08 + half))


@pytest.mark.parametrize(("only_a", "only_b"), [(0.1, 0.1), (0.02, 0.1), (0.03, 0.01)])
def test_the_interval_of_paired_shares_covers_in_95_percent_of_repeats(
    only_a: float, only_b: float
) -> None:
    draw = np.random.default_rng(8)
    counts = draw.multinomial(200, [only_a, only_b, 1 - only_a - only_b], 2000)
    ends = np.array([paired_shares(int(a - b), int(a + b), 200) for a, b, _ in counts])
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


MATRICES = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 12)).flatmap(
    lambda s: st.tuples(*(arrays.arrays(float, (k, s[2]), elements=st.floats(0, 1)) for k in s[:2]))
)


@given(MATRICES, st.booleans())
@example((np.zeros((2, 2)), np.array([[5e-114, 0.0], [0.0, 0.0]])), False)
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
    assert difference([right, ~right], [right, right]).test == "t"
    assert (
        difference([right, ~right], [right]).test == "permutation"
    )  # one run says nothing of seeds
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
    # Half of the conditions turn from right to wrong on each of 40 images, and half an image more
    # in each cell: sum 20 of 42, squares 40 / 4 + 1.
    a, b = np.full(40, 0.75), np.full(40, 0.25)
    found, mirrored = difference([a], [b], share=True), difference([b], [a], share=True)
    centre = 20 / 42
    half = 1.959964 * math.sqrt((11 / 42 - centre**2) / 42)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half))
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
    one_image = difference([np.ones(1), np.zeros(1)], [np.zeros(1), np.zeros(1)])
    assert math.isnan(one_image.p)


@pytest.mark.parametrize("runs", [([], [np.ones(3)]), ([np.ones(2)], [np.ones(3)])])
def test_differences_of_other_images_are_refused(runs: tuple[list, list]) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match="same images"):
        difference(*runs)
