"""Differences of single runs on the same images: arrays in, estimates and p values out.

What may come out otherwise is the draw of the images, which are paired; for that of seeds as well
see `contrasts`. Random draws are keyed by the values, as those of `intervals` are, and mirror with
them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from robustbench_coss.statistics.intervals import (
    UPPER,
    Floats,
    bootstrap_mean,
    generator_for,
    remembered,
)

RESAMPLES = 10_000
"""Draws of signs in a permutation test."""
_CHUNK = 2**21  # signs drawn at a time, 16 MiB


@dataclass(frozen=True)
class Difference:
    """What one model has more than another on the same images.

    Attributes:
        value: mean of the first minus mean of the second, or a sum of more; a correlation.
        low, high: ends of the 95 % interval; NaN where there is none.
        p: two-sided, of the hypothesis that there is no difference; NaN where there is none.
        test: what gave `p`: "mcnemar", "permutation", "t" or "rank".
    """

    value: float
    low: float
    high: float
    p: float
    test: str


def by_images(
    values: Floats, most: float | None = None, right_or_wrong: bool = False
) -> Difference:
    """Whether the mean of one number per image is 0, by `permutation_test` or `mcnemar`.

    Args:
        values: [n] differences of two models (or sums of more), n >= 1.
        most: how far from 0 a value can be by nature, 1 for shares; None if nothing says so. With
            it the interval is that of `paired_shares`, which has a width where a bootstrap of
            equal values has none; without it a bootstrap.

        right_or_wrong: the values are 1 and -1 where one alone is right, else 0: McNemar's test.

    Returns:
        Interval and p are NaN if a value is NaN. The interval of a single image is NaN but for
        shares.
    """
    n, value = len(values), float(values.mean())
    if right_or_wrong:
        p, test = mcnemar(int((values > 0).sum()), int((values < 0).sum())), "mcnemar"
    else:
        p, test = permutation_test(values), "permutation"
    low, high = math.nan, math.nan
    if most is not None and not math.isnan(value):
        scaled = values / most
        ends = paired_shares(float(scaled.sum()), float((scaled**2).sum()), n)
        low, high = (most * end for end in ends)
    elif n > 1:
        # One orientation is drawn, so that B against A mirrors A against B.
        turned = values[np.flatnonzero(values)[:1]].sum() < 0
        low, high = bootstrap_mean(-values if turned else values)
        low, high = (-high, -low) if turned else (low, high)
    return Difference(value, low, high, p, test)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p of McNemar's exact test (McNemar 1947, with the binomial distribution).

    Args:
        only_a, only_b: images that one model alone has right.
    """
    fewer = float(special.bdtr(min(only_a, only_b), only_a + only_b, 0.5))
    return min(1.0, 2 * fewer)


def paired_shares(total: float, squares: float, n: int) -> tuple[float, float]:
    """Interval of the difference of two shares among the same images, in [-1, 1].

    Wald's after half an image was added to each of the four cells (Agresti and Min 2005, "Simple
    improved confidence intervals for comparing matched proportions"): unlike Wald's own or a
    bootstrap it has a width where the two models never disagree.

    Args:
        total, squares: sums of the n differences and of their squares. Of right and wrong answers
            these are 1 and -1 where one model alone is right, and 0.
        n: images, >= 1.
    """
    centre = total / (n + 2)
    sd = math.sqrt((squares + 1) / (n + 2) - centre**2) / math.sqrt(n + 2)
    half = float(special.ndtri(UPPER)) * sd
    # At the ends of the range an interval may not leave the mean out by rounding.
    low, high = min(centre - half, total / n), max(centre + half, total / n)
    return max(low, -1.0), min(high, 1.0)


@remembered
def permutation_test(differences: Floats) -> float:
    """Two-sided p of a paired permutation test of the mean (Fisher 1935, section 21).

    If the two models were alike, each image's difference could as well have the other sign: signs
    are drawn, and p is the share of draws whose mean is at least as far from zero as the one
    found, which counts as a draw itself (Phipson and Smyth 2010).

    Args:
        differences: [n] one per image. The draw is keyed by their sizes, whatever their signs.

    Returns:
        p, at least 1 / 10,001; NaN if any difference is NaN.
    """
    if np.isnan(differences).any():
        return math.nan
    sizes = np.abs(differences)
    largest = sizes.max(initial=0.0)
    if largest == 0:
        return 1.0
    # In units of the largest, without the rounding in which equal averages may differ.
    size = np.round(sizes / largest, 12)
    found = abs(float(np.where(differences < 0, -size, size).sum()))
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
