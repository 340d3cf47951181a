"""Differences of two models on the same images: arrays in, estimates and p values out.

Single runs: drawing the images, which are paired. Several seeds: drawing both, images and seeds.
Random draws are keyed by the values, as those of `intervals` are, and mirror with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from robustbench_coss.statistics.intervals import (
    UPPER,
    Floats,
    bootstrap_mean,
    constant,
    generator_for,
)

RESAMPLES = 10_000
"""Draws of signs in a permutation test."""
_CHUNK = 2**21  # signs drawn at a time, 16 MiB


@dataclass(frozen=True)
class Difference:
    """What one model has more than another on the same images.

    Attributes:
        value: mean of the first minus mean of the second.
        low, high: ends of the 95 % interval; NaN where there is none.
        p: two-sided, of the hypothesis that there is no difference; NaN where there is none.
        test: what gave `p`: "mcnemar", "permutation" or "t".
    """

    value: float
    low: float
    high: float
    p: float
    test: str


def difference(
    a: Sequence[NDArray[Any]], b: Sequence[NDArray[Any]], share: bool = False
) -> Difference:
    """Difference of two models that were measured on the same images.

    Single runs are compared image by image: right or wrong by McNemar's exact test, other values
    by `by_images`. With several seeds on either side it is `seeds_by_images`.

    Args:
        a, b: for each seed the value of every image, [n], in the same order everywhere.
        share: values lie in [0, 1] by nature, so the interval is cut at -1 and 1.

    Raises:
        ValueError: no run, no image, or columns of different lengths.
    """
    columns = [*a, *b]
    if not (a and b and columns[0].size) or any(c.shape != columns[0].shape for c in columns):
        raise ValueError("difference needs runs on both sides, all of the same images")
    share = share or all(column.dtype == bool for column in columns)
    x, y = (np.stack(runs).astype(np.float64) for runs in (a, b))
    if len(a) == len(b) == 1:
        return _single(x[0], y[0], share)
    found = seeds_by_images(x, y, share)
    if not share:
        return found
    low, high = (float(np.clip(end, -1, 1)) for end in (found.low, found.high))  # NaN passes
    return replace(found, low=low, high=high)


def _single(a: Floats, b: Floats, share: bool) -> Difference:
    """Two runs image by image, by the test that their values call for."""
    if not (share and np.isin((a, b), (0.0, 1.0)).all()):
        return by_images(a - b, 1 if share else None)
    only_a, only_b, n = int((a > b).sum()), int((b > a).sum()), len(a)
    low, high = paired_shares(only_a, only_b, n)
    return Difference((only_a - only_b) / n, low, high, mcnemar(only_a, only_b), "mcnemar")


def by_images(values: Floats, most: float | None = None) -> Difference:
    """Whether the mean of one number per image is 0, by `permutation_test` and bootstrap.

    Args:
        values: [n] differences of two models (or sums of more), n >= 1.
        most: how far from 0 a value can be by nature, 1 for shares; None if nothing says so. The
            interval is cut there. Values that are all equal have nothing to resample, so that a
            bootstrap would be without width; their interval is that of right and wrong answers
            with the same mean, which vary most.

    Returns:
        Interval and p are NaN if a value is NaN. The interval of a single image is NaN but for
        shares.
    """
    n, value, p = len(values), float(values.mean()), permutation_test(values)
    low, high = math.nan, math.nan
    if most is not None and constant(values):
        hits = round(abs(value) / most * n, 6)
        low = most * paired_shares(math.floor(hits), 0, n)[0]
        high = most * paired_shares(math.ceil(hits), 0, n)[1]
        low, high = (low, high) if value >= 0 else (-high, -low)
    elif n > 1:
        # One orientation is drawn, so that B against A mirrors A against B.
        turned = values[np.flatnonzero(values)[:1]].sum() < 0
        low, high = bootstrap_mean(-values if turned else values)
        low, high = (-high, -low) if turned else (low, high)
    if most is not None:
        low, high = (float(np.clip(end, -most, most)) for end in (low, high))
    return Difference(value, low, high, p, "permutation")


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p of McNemar's exact test (McNemar 1947, with the binomial distribution).

    Args:
        only_a, only_b: images that one model alone has right.
    """
    fewer = float(stats.binom.cdf(min(only_a, only_b), only_a + only_b, 0.5))
    return min(1.0, 2 * fewer)


def paired_shares(only_a: int, only_b: int, n: int) -> tuple[float, float]:
    """Interval of the difference of two shares among the same images, in [-1, 1].

    Wald's after half an image was added to each of the four cells (Agresti and Min 2005, "Simple
    improved confidence intervals for comparing matched proportions"): unlike Wald's own or a
    bootstrap it has a width where the two models never disagree.

    Args:
        only_a, only_b: images that one model alone has right.
        n: all images, >= 1.
    """
    centre = (only_a - only_b) / (n + 2)
    sd = math.sqrt((only_a + only_b + 1) / (n + 2) - centre**2) / math.sqrt(n + 2)
    half = float(stats.norm.ppf(UPPER)) * sd
    return max(centre - half, -1.0), min(centre + half, 1.0)


def permutation_test(differences: ArrayLike) -> float:
    """Two-sided p of a paired permutation test of the mean (Fisher 1935, section 21).

    If the two models were alike, each image's difference could as well have the other sign: signs
    are drawn, and p is the share of draws whose mean is at least as far from zero as the one
    found, which counts as a draw itself (Phipson and Smyth 2010).

    Args:
        differences: [n] one per image. The draw is keyed by their sizes, whatever their signs.

    Returns:
        p, at least 1 / 10,001; NaN if any difference is NaN.
    """
    values = np.asarray(differences, np.float64)
    if np.isnan(values).any():
        return math.nan
    largest = np.abs(values).max(initial=0.0)
    if largest == 0:
        return 1.0
    # In units of the largest, without the rounding in which equal averages may differ.
    size = np.round(np.abs(values) / largest, 12)
    found = abs(float(np.where(values < 0, -size, size).sum()))
    size = size[size > 0]
    generator = generator_for("permutation", size)
    distinct, counts = np.unique(size, return_counts=True)
    if len(distinct) * 16 < len(size):
        # Of c equal sizes a binomial number is positive: the same draw, and much cheaper.
        positive = generator.binomial(counts, 0.5, (RESAMPLES, len(distinct)))
        sums = (2 * positive - counts) @ distinct
    else:
        sums = np.empty(RESAMPLES)
        step = max(1, _CHUNK // len(size))
        for start in range(0, RESAMPLES, step):
            rows = min(step, RESAMPLES - start)
            signs = 2.0 * generator.integers(0, 2, (rows, len(size)), np.int8) - 1
            sums[start : start + rows] = signs @ size
    as_far = int((np.abs(sums) >= found - 1e-9 * len(size)).sum())
    return (as_far + 1) / (RESAMPLES + 1)


def seeds_by_images(a: Floats, b: Floats, share: bool = False) -> Difference:
    """Difference of two configurations over seeds and images, both of which could be others.

    A benchmark has to account for every source of variation (Bouthillier et al. 2021, arXiv
    2103.03098). Here images are crossed with the seeds of both configurations, so that the
    difference of the means has the variance

        seed_a / k_a + seed_b / k_b + image / n + residual_a / (k_a n) + residual_b / (k_b n),

    where "image" is the variance between images of the difference. The variance of seed means and
    that of per-image differences each contain the residuals, which are therefore subtracted once:
    unbiased, where resampling seeds and images counts them up to three times (Owen 2007, "The
    pigeonhole bootstrap") and a bootstrap of three seeds misses a third of their variance. The
    quantile is Student's with Satterthwaite's degrees of freedom (1946); where images make no
    difference this is Welch's test. Where one side has one seed, it is taken to vary as the other.

    Args:
        a, b: [k_a, n] and [k_b, n] values; the images are the same in all rows, the seeds are
            independent. At least one of k_a, k_b is 2 or more.
        share: values lie in [0, 1] by nature.

    Returns:
        `test` is "t". Interval and p are NaN for a single image or if a value is NaN. Where
        neither seeds nor images vary, no t can be made: it is the test of one run, on the means
        over seeds.

    Raises:
        ValueError: one seed on both sides.
    """
    n = a.shape[1]
    value = float(a.mean() - b.mean())
    if len(a) == len(b) == 1:
        raise ValueError("seeds_by_images needs at least two seeds on one side")
    if n < 2 or math.isnan(value):
        return Difference(value, math.nan, math.nan, math.nan, "t")
    images = float((a.mean(axis=0) - b.mean(axis=0)).var(ddof=1)) / n
    terms = [(images, n - 1)]  # what enters the variance, with degrees of freedom
    if len(a) > 1 and len(b) > 1:
        sides = [(a, 1 / len(a)), (b, 1 / len(b))]
    else:
        sides = [(a if len(a) > 1 else b, 1 / len(a) + 1 / len(b))]
    seeds = residual = 0.0
    for rows, weight in sides:
        k, means = len(rows), rows.mean(axis=1)
        left = rows - means[:, None] - rows.mean(axis=0) + rows.mean()
        mean_square = float((left**2).sum()) / ((k - 1) * (n - 1))
        terms += [(weight * float(means.var(ddof=1)), k - 1)]
        seeds += terms[-1][0]
        terms += [(weight * mean_square / n, (k - 1) * (n - 1))]
        residual += terms[-1][0]
    # Neither source alone can vary more than both together.
    variance = max(seeds + images - residual, seeds, images)
    if negligible(variance, a, b):
        return _single(a.mean(axis=0), b.mean(axis=0), share)
    freedom = variance**2 / sum(term**2 / df for term, df in terms)
    half = float(stats.t.ppf(UPPER, freedom)) * math.sqrt(variance)
    p = 2 * float(stats.t.sf(abs(value) / math.sqrt(variance), freedom))
    return Difference(value, value - half, value + half, p, "t")


def negligible(variance: float, *groups: Floats) -> bool:
    """Whether a variance is 0 but for rounding, beside the values that it was found from."""
    largest = max(float(np.abs(rows).max(initial=0.0)) for rows in groups)
    return variance <= (1e-12 * largest) ** 2


def holm(p: ArrayLike) -> Floats:
    """p-values corrected for the number of tests, so that the chance of any false finding among
    them stays at the level (Holm 1979, "A simple sequentially rejective multiple test procedure").

    Args:
        p: [m] p-values in [0, 1]; NaN is no test.

    Returns:
        [m] corrected p-values, in the order of `p`.
    """
    values = np.asarray(p, np.float64)
    corrected = np.full(values.shape, math.nan)
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return corrected
