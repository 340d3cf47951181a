"""Intervals and tests: how far a number, or a difference of two, could be off.

A number. One run: the uncertainty of drawing the test images (Wilson for a share, bootstrap
otherwise). Several seeds of one configuration: that of drawing the seed (Student's t).
A difference of two models on the same images. Single runs: drawing the images, which are paired.
Several seeds: drawing both, images and seeds. Nothing here speaks of other test sets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from robustbench_coss.seeds import Name, seed_of

CONFIDENCE = 0.95
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        value: the mean over images, and over seeds where there are several.
        low, high: ends of the 95 % interval; NaN where there is none (a single image).
        sd: standard deviation over seeds (n - 1 in the denominator); NaN for a single run.
        seeds: number of runs.
        interval: how the interval was made: "wilson", "bootstrap" or "t".
    """

    value: float
    low: float
    high: float
    sd: float
    seeds: int
    interval: str


def wilson(
    successes: ArrayLike, n: ArrayLike, confidence: float = CONFIDENCE
) -> tuple[Floats, Floats]:
    """Wilson score interval of a share (Wilson 1927, "Probable inference", eq. 4).

    Args:
        successes, n: counts, any shapes that broadcast; 0 <= successes <= n and n >= 1.
        confidence: in (0, 1).

    Returns:
        (low, high), each of the broadcast shape, in [0, 1].

    Raises:
        ValueError: counts or confidence out of range.
    """
    k, n = np.asarray(successes, np.float64), np.asarray(n, np.float64)
    if np.any(n < 1) or np.any(k < 0) or np.any(k > n):
        raise ValueError("wilson needs n >= 1 and 0 <= successes <= n")
    z = stats.norm.ppf(upper_quantile(confidence))
    share, scale = k / n, 1 / (1 + z**2 / n)
    centre = (share + z**2 / (2 * n)) * scale
    half = z * scale * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # At 0 and n successes the ends are exactly 0 and 1; rounding must not say otherwise.
    low = np.where(k == 0, 0.0, np.clip(centre - half, 0, 1))
    high = np.where(k == n, 1.0, np.clip(centre + half, 0, 1))
    return low, high


def bootstrap_mean(
    values: ArrayLike, *names: Name, resamples: int = 2000, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean (Efron and Tibshirani 1993, section 13.3).

    Args:
        values: [n] one number per image; images are what is resampled.
        names: what the draw is for; the same names and values give the same interval.
        resamples: bootstrap samples.
        confidence: in (0, 1).

    Returns:
        (low, high). Equal ends if all values are equal; NaN if any value is NaN.

    Raises:
        ValueError: no values, or confidence or resamples out of range.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size or resamples < 1:
        raise ValueError("bootstrap_mean needs at least one value and one resample")
    upper = upper_quantile(confidence)
    if np.isnan(values).any():
        return math.nan, math.nan
    generator = np.random.default_rng(seed_of("bootstrap", *names))
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) == 1:
        return float(distinct[0]), float(distinct[0])
    if len(distinct) * 16 < len(values):
        # Means of a few booleans take few values: drawing how often each value occurs is the
        # same draw as drawing images, and much cheaper.
        drawn = generator.multinomial(len(values), counts / len(values), size=resamples)
        means = drawn @ distinct / len(values)
    else:
        means = np.empty(resamples)
        step = max(1, 2**21 // len(values))  # at most 16 MiB of indices at a time
        for start in range(0, resamples, step):
            rows = min(step, resamples - start)
            chosen = generator.integers(0, len(values), (rows, len(values)))
            means[start : start + rows] = values[chosen].mean(axis=1)
    low, high = np.quantile(means, [1 - upper, upper])
    return float(low), float(high)


def combine_seeds(
    values: ArrayLike, confidence: float = CONFIDENCE
) -> tuple[float, float, tuple[float, float]]:
    """Mean over seeds with Student's t interval.

    It covers the variation between trainings with other seeds. The test images are the same for
    all seeds, so the variation between test sets is not in it.

    Args:
        values: [k] one number per seed, k >= 2.
        confidence: in (0, 1).

    Returns:
        mean, standard deviation (k - 1 in the denominator) and (low, high).

    Raises:
        ValueError: fewer than two values, or confidence out of range.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or values.size < 2:
        raise ValueError("combine_seeds needs the values of at least two seeds")
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    quantile = float(stats.t.ppf(upper_quantile(confidence), values.size - 1))
    half = quantile * sd / math.sqrt(values.size)
    return mean, sd, (mean - half, mean + half)


def estimate(runs: Sequence[Sequence[NDArray[Any]]], *names: Name, share: bool = False) -> Estimate:
    """Mean and interval of a number that is averaged over conditions, images and seeds.

    Args:
        runs: for each seed the outcome columns, each [n], one per condition.
        names: what a bootstrap draw is for.
        share: the number lies in [0, 1] by nature, so the interval is cut there.

    Raises:
        ValueError: no run, a run without columns, or columns of different lengths in a run.
    """
    means = [float(np.mean([np.mean(column, dtype=np.float64) for column in run])) for run in runs]
    if len(runs) > 1:
        value, sd, (low, high) = combine_seeds(means)
        if share:
            low, high = max(low, 0.0), min(high, 1.0)
        return Estimate(value, low, high, sd, len(runs), "t")
    (columns,) = runs
    if len(columns) == 1 and columns[0].dtype == bool:
        lows, highs = wilson(columns[0].sum(), columns[0].size)
        return Estimate(means[0], float(lows), float(highs), math.nan, 1, "wilson")
    per_image = np.mean(np.stack(columns).astype(np.float64), axis=0)
    low, high = bootstrap_mean(per_image, *names) if per_image.size > 1 else (math.nan, math.nan)
    return Estimate(means[0], low, high, math.nan, 1, "bootstrap")


def upper_quantile(confidence: float) -> float:
    """Upper quantile of a central interval."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return 0.5 + confidence / 2
