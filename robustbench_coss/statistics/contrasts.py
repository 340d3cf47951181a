"""Tests that claims need beyond a difference of two models: sums over several, and ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from robustbench_coss.statistics.intervals import UPPER, Floats, generator_for
from robustbench_coss.statistics.paired_tests import Difference, by_images, negligible

FEWEST = 4  # models without which a rank correlation has no interval
_EXACT = 8  # models of which all 8! orders are gone through; of more, some are drawn
_DRAWS = 10_000


def contrast(
    groups: Sequence[Floats], weights: Sequence[float], most: float | None = None
) -> Difference:
    """A weighted sum of the means of several configurations, over seeds and images.

    `statistics.seeds_by_images` for more than two configurations, of which (a, b) with weights
    (1, -1) is the case of two: images are crossed with the seeds of every configuration, so that
    the sum has the variance

        sum of weight² (seed / k + residual / (k n)) over configurations + image / n,

    where "image" is the variance between images of the sum. What all configurations owe to the
    same images is thus counted as such, where adding up independent errors would not. Student's
    quantile has Satterthwaite's degrees of freedom (1946). Configurations with one seed are taken
    to vary as the others do on average.

    Args:
        groups: [k, n] values of each configuration, k seeds of the same n images; at least one
            has two seeds or more.
        weights: one per configuration.
        most: how far from 0 the sum can be by nature; None if nothing says so.

    Returns:
        `value` is the sum, `p` two-sided of a sum of 0, `test` is "t". Interval and p are NaN for
        a single image or if a value is NaN. Where neither seeds nor images vary it is
        `paired_tests.by_images` of the means over seeds.

    Raises:
        ValueError: all have one seed, or groups and weights do not fit together.
    """
    if len(groups) != len(weights) or len({rows.shape[1] for rows in groups}) != 1:
        raise ValueError("contrast needs a weight per group, and groups of the same images")
    several = [(rows, w) for rows, w in zip(groups, weights, strict=True) if len(rows) > 1]
    if not several:
        raise ValueError("contrast needs two seeds of at least one configuration")
    sums = np.sum([w * rows.mean(axis=0) for rows, w in zip(groups, weights, strict=True)], axis=0)
    value, n = float(sums.mean()), len(sums)
    if n < 2 or math.isnan(value):
        return Difference(value, math.nan, math.nan, math.nan, "t")
    single = sum(w**2 for rows, w in zip(groups, weights, strict=True) if len(rows) == 1)
    images = float(sums.var(ddof=1)) / n
    terms = [(images, n - 1)]  # what enters the variance, with degrees of freedom
    seeds = residual = 0.0
    for rows, w in several:
        k, means = len(rows), rows.mean(axis=1)
        share = w**2 / k + single / len(several)
        left = rows - means[:, None] - rows.mean(axis=0) + rows.mean()
        between = share * float(means.var(ddof=1))
        within = share * float((left**2).sum()) / ((k - 1) * (n - 1)) / n
        terms += [(between, k - 1), (within, (k - 1) * (n - 1))]
        seeds, residual = seeds + between, residual + within
    # Both parts contain the residuals; neither part alone can vary more than both together.
    variance = max(seeds + images - residual, seeds, images)
    if negligible(variance, *groups):
        return by_images(sums, most)
    freedom = variance**2 / sum(term**2 / df for term, df in terms)
    scale = math.sqrt(variance)
    half = float(stats.t.ppf(UPPER, freedom)) * scale
    p = 2 * float(stats.t.sf(abs(value) / scale, freedom))
    low, high = value - half, value + half
    if most is not None:
        low, high = max(low, -most), min(high, most)
    return Difference(value, low, high, p, "t")


def rank_correlation(x: ArrayLike, y: ArrayLike) -> Difference:
    """Spearman's rank correlation with an interval and a permutation test.

    The interval is Fisher's z with the variance (1 + rho² / 2) / (n - 3) of Bonett and Wright
    (2000, "Sample size requirements for estimating Pearson, Kendall and Spearman correlations").
    At rho = ±1, where z is infinite, it starts half a step (6 / (n (n² - 1))) short of that.
    p is the share of orders of `y` with a correlation at least as far from 0: of all orders for
    up to 8 values, else of 10,000 drawn ones and the one found (Phipson and Smyth 2010).

    Args:
        x, y: [n] numbers, n >= 4; ties get their mean rank. The draw of orders is keyed by the
            pairs of ranks, in whatever order they come.

    Returns:
        `value` is rho in [-1, 1] and `test` is "rank"; all are NaN where x or y are constant or
        have a NaN.

    Raises:
        ValueError: fewer than 4 pairs, or of different numbers.
    """
    one, other = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n = one.size
    if one.ndim != 1 or one.shape != other.shape or n < FEWEST:
        raise ValueError(f"rank_correlation needs {FEWEST} or more pairs")
    ranks = [stats.rankdata(values) - (n + 1) / 2 for values in (one, other)]
    length = math.sqrt(float((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    if np.isnan(one).any() or np.isnan(other).any() or length == 0:
        return Difference(math.nan, math.nan, math.nan, math.nan, "rank")
    rho = float(np.clip(ranks[0] @ ranks[1] / length, -1, 1))
    most = 1 - 6 / (n * (n**2 - 1))
    z = math.atanh(min(max(rho, -most), most))
    quantile = float(stats.norm.ppf(UPPER))
    half = quantile * math.sqrt((1 + rho**2 / 2) / (n - 3))
    low, high = min(math.tanh(z - half), rho), max(math.tanh(z + half), rho)
    if n <= _EXACT:
        drawn, found = ranks[1][_orders(n)], 0
    else:
        pairs = np.stack(ranks)[:, np.lexsort((ranks[1], ranks[0]))]
        generator = generator_for("rank correlation", pairs)
        ranks = list(pairs)
        drawn, found = generator.permuted(np.tile(ranks[1], (_DRAWS, 1)), axis=1), 1
    as_far = int((np.abs(drawn @ ranks[0]) >= (abs(rho) - 1e-9) * length).sum())
    return Difference(rho, low, high, (as_far + found) / (len(drawn) + found), "rank")


@cache
def _orders(n: int) -> NDArray[np.int64]:
    """[n!, n] every order of n things."""
    return np.array(list(permutations(range(n))))
