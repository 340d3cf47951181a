"""Differences and sums over seeds and images: seeds that coincide, and how often intervals hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from robustbench_coss.statistics.contrasts import (
    blocks_of,
    contrast,
    difference,
    over_seeds,
    unmatched,
)


def crossed(
    draw: np.random.Generator,
    seeds: np.ndarray,
    common: np.ndarray,
    image: float,
) -> list[np.ndarray]:
    """A run per seed, [n] right or wrong: what all methods find hard, images, seeds and noise."""
    own = common + image * draw.standard_normal(len(common))
    rows = own + seeds[:, None] + draw.standard_normal((len(seeds), len(common)))
    return list((rows > 0).astype(float))


def rows(means: list[float], n: int = 7) -> list[np.ndarray]:
    return [np.full(n, mean) for mean in means]


# ---- which seeds coincide ----


def test_configurations_form_a_block_where_seeds_coincide() -> None:
    found = blocks_of([[0, 1, 2], [5, 6], [2, 1, 9], [6, 5, 7]])
    assert [(b.members, b.seeds) for b in found] == [((0, 2), (1, 2)), ((1, 3), (5, 6))]
    assert unmatched([[0, 1, 2], [5, 6], [2, 1, 9], [6, 5, 7]]) == [(0, 0), (2, 9), (3, 7)]
    chain = blocks_of([[0, 1], [1, 2], [2, 3]])  # the first and last share none
    assert [(b.members, b.seeds) for b in chain] == [((0, 1, 2), ())]


@pytest.mark.parametrize(
    ("seeds", "enough"),
    [
        ([[0, 1], [0, 1]], True),
        ([[0, 1], [2, 3]], True),
        ([[0, 1, 2], [1, 2]], True),
        ([[0], [0]], False),
        ([[0, 1, 2], [0]], False),
        ([[0, 1, 2], [7]], False),
        ([[0, 1], [1, 2]], False),
    ],
)
def test_two_seeds_in_common_are_needed_to_speak_of_seeds(
    seeds: list[list[int]], enough: bool
) -> None:
    assert over_seeds(seeds) is enough


# ---- against scipy ----


@pytest.mark.parametrize("k", [2, 3, 6])
def test_coinciding_seeds_are_the_paired_t_test_where_images_make_no_difference(k: int) -> None:
    a, b = np.random.default_rng(k).random((2, k))
    found = difference(rows(list(a)), rows(list(b)), seeds=[range(k), range(k)])
    paired = stats.ttest_rel(a, b)
    ends = paired.confidence_interval(0.95)
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert (found.low, found.high, found.p) == pytest.approx((ends.low, ends.high, paired.pvalue))
    order = list(range(k))[::-1]  # whichever way the runs lie
    turned = difference(rows(list(a[order])), rows(list(b)), seeds=[order, range(k)])
    assert (turned.low, turned.p) == pytest.approx((found.low, found.p))


def test_other_seeds_are_welch_where_images_make_no_difference() -> None:
    a, b = [0.7, 0.72, 0.8], [0.6, 0.65, 0.61, 0.7]
    found = difference(rows(a), rows(b))
    welch = stats.ttest_ind(a, b, equal_var=False)
    ends = welch.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((ends.low, ends.high, welch.pvalue))


def test_a_mean_of_pairs_over_the_same_seeds_is_one_t_test_of_their_mean() -> None:
    draw = np.random.default_rng(4)
    seeds = draw.standard_normal(4)
    pairs = [[seeds + 0.1 * draw.standard_normal(4) for _ in range(2)] for _ in range(3)]
    groups = [rows(list(side)) for pair in pairs for side in pair]
    found = contrast(groups, [1 / 3, -1 / 3] * 3, [range(4)] * 6)
    expected = stats.ttest_1samp(np.mean([a - b for a, b in pairs], axis=0), 0)
    ends = expected.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((ends.low, ends.high, expected.pvalue))


def test_components_are_those_that_analysis_of_variance_finds() -> None:
    # 2 seeds × 3 images by hand: seed means 3 and 5, image means 1.5, 3.5, 7 with the variance
    # 7.75, residuals ±(0.5, 0.5, -1) with the mean square 3 / 2.
    a = [np.array([1.0, 3.0, 5.0]), np.array([2.0, 4.0, 9.0])]
    found = difference(a, [np.zeros(3)] * 2, seeds=[(0, 1), (0, 1)])
    seeds, images = 2 / 2, 7.75 / 3 - 1.5 / 6
    quantiles = stats.t.ppf(0.975, 1), stats.t.ppf(0.975, 2)
    half = math.sqrt(quantiles[0] ** 2 * seeds + quantiles[1] ** 2 * images)
    assert (found.value, found.high - found.value) == pytest.approx((4.0, half))
    # p is where the interval ends at 0.
    at = stats.t.isf(found.p / 2, 1) ** 2 * seeds + stats.t.isf(found.p / 2, 2) ** 2 * images
    assert at == pytest.approx(4.0**2)


def test_seeds_that_not_all_have_are_left_out() -> None:
    a, b = [0.6, 0.62, 0.9], [0.5, 0.55]
    found = difference(rows(a), rows(b), seeds=[(0, 1, 2), (0, 1)])
    assert found == difference(rows(a[:2]), rows(b), seeds=[(0, 1), (0, 1)])
    assert found.value == pytest.approx(0.61 - 0.525)


@pytest.mark.parametrize("seeds", [[(0, 1, 2), (0,)], [(0, 1, 2), (8,)]])
def test_one_run_beside_several_is_tested_by_its_images_alone(seeds: list[tuple[int]]) -> None:
    draw = np.random.default_rng(9)
    a, b = draw.random((3, 40)), draw.random((1, 40))
    found = difference(list(a), list(b), seeds=seeds)
    values = a.mean(axis=0) - b[0]
    theirs = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=20_000, rng=draw
    )
    assert found.test == "permutation"
    assert found.p == pytest.approx(theirs.pvalue, abs=0.02)


def test_two_images_and_two_seeds_prove_nothing() -> None:
    right, wrong = [np.ones(2, bool)] * 2, [np.zeros(2, bool)] * 2
    for seeds in ([(0, 1), (0, 1)], [(0, 1), (2, 3)]):
        found = difference(right, wrong, share=True, seeds=seeds)
        # Two images of two for one side: 2 / 2² in McNemar's exact test.
        assert (found.value, found.p, found.test) == (1.0, 0.5, "mcnemar")
        assert found.low < 0.5
    pooled = contrast([right, wrong, right, wrong], [0.5, -0.5, 0.5, -0.5], [(0, 1)] * 4)
    assert pooled.p == pytest.approx(0.5, abs=0.02)  # 10,000 draws of signs
    crops = contrast([right, wrong, wrong, right], [1, -1, -1, 1], [(0, 1)] * 4)
    assert crops.value == 2
    assert crops.p == pytest.approx(0.5, abs=0.02)
    assert crops.low < 1 < crops.high == 2


# ---- error rates ----


@pytest.mark.parametrize("shared", [0.0, 0.9])
@pytest.mark.parametrize("k", [2, 3, 5])
def test_at_most_5_of_100_intervals_over_the_same_seeds_miss(shared: float, k: int) -> None:
    # Methods alike in distribution, whose runs rise and fall together by `shared`.
    draw, hits, cases = np.random.default_rng(11), 0, 600
    for _ in range(cases):
        common, of_all = draw.standard_normal(100), draw.standard_normal(k)
        sides = []
        for _ in "ab":
            own = draw.standard_normal(k)
            seeds = 0.4 * (math.sqrt(shared) * of_all + math.sqrt(1 - shared) * own)
            sides.append(crossed(draw, seeds, common, 0.3))
        found = difference(*sides, seeds=[range(k)] * 2)
        hits += found.low <= 0 <= found.high
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high)
    # 2.6 standard deviations of a binomial of 600 at 95 % are 2.3 points.
    assert hits / cases > 0.95 - 0.023


@pytest.mark.parametrize(("k_a", "k_b"), [(3, 3), (5, 3), (2, 2)])
def test_at_most_5_of_100_intervals_over_other_seeds_miss(k_a: int, k_b: int) -> None:
    draw, hits, cases = np.random.default_rng(12), 0, 800
    for _ in range(cases):
        common = draw.standard_normal(100)
        a, b = (crossed(draw, 0.3 * draw.standard_normal(k), common, 0.5) for k in (k_a, k_b))
        found = difference(a, b)
        hits += found.low <= 0 <= found.high
    assert hits / cases > 0.95 - 0.02


def test_sums_that_ignore_coinciding_seeds_miss_more_often() -> None:
    # What blocks are for: two pairs whose differences rise and fall together with the seed.
    draw, cases = np.random.default_rng(13), 400
    blocked = apart = 0
    for _ in range(cases):
        common, seeds = draw.standard_normal(200), 0.6 * draw.standard_normal(3)
        co = [crossed(draw, seeds + 0.05 * draw.standard_normal(3), common, 0.1) for _ in range(2)]
        base = [crossed(draw, 0.05 * draw.standard_normal(3), common, 0.1) for _ in range(2)]
        groups, weights = [*co, *base], [0.5, 0.5, -0.5, -0.5]
        found = contrast(groups, weights, [range(3)] * 4)
        blocked += not found.low <= 0 <= found.high
        alone = [[(i, s) for s in range(3)] for i in range(4)]
        found = contrast(groups, weights, alone)
        apart += not found.low <= 0 <= found.high
    # 2.6 standard deviations of a binomial of 400 at 5 % are 2.8 points.
    assert blocked / cases < 0.078 < apart / cases


@pytest.mark.filterwarnings("ignore:Precision loss")  # seeds that happen to agree
def test_seeds_alone_are_too_narrow_where_images_matter() -> None:
    # What the images are for: a method that is better on half of them.
    draw, hits, alone, cases = np.random.default_rng(13), 0, 0, 400
    for _ in range(cases):
        common = draw.standard_normal(60)
        a, b = (crossed(draw, 0.05 * draw.standard_normal(4), common, 2.0) for _ in range(2))
        found = difference(a, b, seeds=[range(4)] * 2)
        hits += found.low <= 0 <= found.high
        means = [np.mean(side, axis=1) for side in (a, b)]
        ends = stats.ttest_rel(*means).confidence_interval(0.95)
        alone += ends.low <= 0 <= ends.high
    assert hits / cases > 0.93 > 0.85 > alone / cases


# ---- form ----


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 12), st.integers(0, 10**6))
def test_a_difference_is_the_contrast_of_one_and_minus_one(
    k_a: int, k_b: int, n: int, draw: int
) -> None:
    generator = np.random.default_rng(draw)
    a, b = list(generator.random((k_a, n))), list(generator.random((k_b, n)))
    seeds = [range(k_a), range(k_b)]
    found = difference(a, b, share=True, seeds=seeds)
    assert repr(found) == repr(contrast([a, b], [1, -1], seeds, share=True))
    halves = contrast([a, a, b], [0.5, 0.5, -1], [seeds[0], *seeds], share=True)
    assert halves.value == pytest.approx(found.value)
    assert halves.p == pytest.approx(found.p, nan_ok=True)


def test_a_contrast_refuses_what_does_not_fit_together() -> None:
    one = [np.zeros(5)]
    for groups in ([one, [np.zeros(4)]], [one, []], []):
        with pytest.raises(ValueError, match="same images"):
            contrast(groups, [1, -1], [[0], [0]])
    with pytest.raises(ValueError, match="weight per configuration"):
        contrast([one, one], [1], [[0], [0]])
    with pytest.raises(ValueError, match="seed per run"):
        contrast([one, one], [1, -1], [[0], [0, 1]])
