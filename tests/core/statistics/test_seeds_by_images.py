"""Differences over seeds and images: how often the interval holds the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from robustbench_coss.statistics.paired_tests import seeds_by_images


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
