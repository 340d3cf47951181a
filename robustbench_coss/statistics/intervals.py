"""Intervals: how far a number could be off.

One run: the uncertainty of drawing the test images (Wilson or
Agresti and Coull for shares, bootstrap otherwise).
Several seeds of one configuration: that of drawing the seed (Student's t). Nothing here speaks of
other test sets.

Random draws are keyed by the values that they are about and by nothing else. The same outcomes
therefore have the same interval wherever it is asked for, whatever they are called there.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from robustbench_coss.seeds import seed_of

CONFIDENCE = 0.95
UPPER = 0.5 + CONFIDENCE / 2
"""Upper quantile of a central interval."""
RESAMPLES = 2000
"""Bootstrap samples."""
_CHUNK = 2**17  # numbers drawn at a time, 1 MiB: few enough for the processor's cache
Floats = NDArray[np.float64]
T = TypeVar("T")

KINDS = {
    "t": "Student's t",
    "wilson": "Wilson",
    "agresti-coull": "Agresti-Coull",
    "bootstrap": "bootstrap",
}
"""Kinds of intervals, with the names that readers see: the first over seeds, the others over test
images.
"""


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        value: the mean over images, and over seeds where there are several.
        low, high: ends of the 95 % interval; NaN where there is none (a single image).
        sd: standard deviation over seeds (n - 1 in the denominator); NaN for a single run.
        seeds: number of runs.
        interval: how the interval was made, one of `KINDS`.
    """

    value: float
    low: float
    high: float
    sd: float
    seeds: int
    interval: str


def content_of(values: Floats) -> tuple[str, str]:
    """Shape and digest of numbers in their order; -0 is 0."""
    plain = np.ascontiguousarray(values, dtype="<f8") + 0.0
    return str(values.shape), hashlib.sha256(plain.tobytes()).hexdigest()


def generator_for(purpose: str, values: Floats) -> np.random.Generator:
    """A generator keyed by numbers: the same for the same values, in the same order and shape."""
    return np.random.default_rng(seed_of(purpose, *content_of(values)))


def remembered(found_of: Callable[[Floats], T]) -> Callable[[ArrayLike], T]:
    """A function of numbers that computes once for the same numbers, which tables, figures and
    pages ask for one after the other. It keeps their digest, not the numbers.
    """
    known: dict[tuple[str, str], T] = {}

    @functools.wraps(found_of)
    def found(values: ArrayLike) -> T:
        numbers = np.asarray(values, np.float64)
        content = content_of(numbers)
        if content not in known:
            known[content] = found_of(numbers)
        return known[content]

    return found


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927, "Probable inference").

    The shares p for which (share - p)² = z² p (1 - p) / n.

    Args:
        successes, n: counts; 0 <= successes <= n and n >= 1.

    Returns:
        (low, high) in [0, 1].

    Raises:
        ValueError: counts out of range.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} of {n}: counts out of range")
    share, weight = successes / n, float(special.ndtri(UPPER)) ** 2 / n
    middle = (share + weight / 2) / (1 + weight)
    half = math.sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
    # At 0 and n successes the ends are exactly 0 and 1; rounding must not say otherwise.
    low = 0.0 if successes == 0 else middle - half
    return low, 1.0 if successes == n else middle + half


@remembered
def bootstrap_mean(values: Floats) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean (Efron and Tibshirani 1993, section 13.3).

    Args:
        values: [n] one number per image; images are what is resampled. The draw is keyed by them.

    Returns:
        (low, high). Equal ends if all values are equal; NaN if any value is NaN.

    Raises:
        ValueError: no values.
    """
    if values.ndim != 1 or not values.size:
        raise ValueError("bootstrap_mean needs at least one value")
    if np.isnan(values).any():
        return math.nan, math.nan
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) == 1:
        return float(distinct[0]), float(distinct[0])
    generator = generator_for("bootstrap", values)
    if len(distinct) * 16 < len(values):
        # Means of a few booleans take few values: drawing how often each value occurs is the
        # same draw as drawing images, and much cheaper.
        drawn = generator.multinomial(len(values), counts / len(values), size=RESAMPLES)
        means = drawn @ distinct / len(values)
    else:
        means = np.empty(RESAMPLES)
        step = max(1, _CHUNK // len(values))
        for start in range(0, RESAMPLES, step):
            rows = min(step, RESAMPLES - start)
            chosen = generator.integers(0, len(values), (rows, len(values)))
            means[start : start + rows] = values[chosen].mean(axis=1)
    low, high = np.quantile(means, [1 - UPPER, UPPER])
    return float(low), float(high)


def combine_seeds(values: ArrayLike) -> tuple[float, float, tuple[float, float]]:
    """Mean over seeds with Student's t interval.

    It covers the variation between trainings with other seeds. The test images are the same for
    all seeds, so the variation between test sets is not in it.

    Args:
        values: [k] one number per seed, k >= 2.

    Returns:
        mean, standard deviation (k - 1 in the denominator) and (low, high).

    Raises:
        ValueError: fewer than two values.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or values.size < 2:
        raise ValueError("combine_seeds needs the values of at least two seeds")
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    half = float(special.stdtrit(values.size - 1, UPPER)) * sd / math.sqrt(values.size)
    return mean, sd, (mean - half, mean + half)


def estimate(runs: Sequence[Sequence[NDArray[Any]]], share: bool = False) -> Estimate:
    """Mean and interval of a number that is averaged over conditions, images and seeds.

    A single run: a share has Wilson's interval where every image is right or wrong, else that of
    `agresti_coull`; other numbers a bootstrap over images. Several seeds: Student's t over their
    means. Seeds that all have the same mean show no variation that Student's t could be made of;
    they get the interval of one run whose outcomes are their means.

    Args:
        runs: for each seed the outcome columns, each [n], one per condition.
        share: the number lies in [0, 1] by nature, so the interval is cut there.

    Raises:
        ValueError: no run, a run without columns, or columns of different lengths in a run.
    """
    means = [float(np.mean([np.mean(column, dtype=np.float64) for column in run])) for run in runs]

    def over_images() -> tuple[float, float, str]:
        columns = [column for run in runs for column in run]
        right_or_wrong = all(column.dtype == bool for column in columns)
        per_image = np.mean(np.stack(columns).astype(np.float64), axis=0)
        return _over_images(per_image, share or right_or_wrong)

    return estimate_by(means, share, over_images)


def estimate_by(
    values: Sequence[float], share: bool, over_images: Callable[[], tuple[float, float, str]]
) -> Estimate:
    """A number with its interval: over seeds where it varies between several, else over images.

    Args:
        values: one per seed.
        share: as `estimate`.
        over_images: gives the ends of an interval of all runs as one, and how it was made.
    """
    sd = math.nan
    if len(values) > 1:
        value, sd, (low, high) = combine_seeds(values)
        if not constant(values):
            if share:
                low, high = max(low, 0.0), min(high, 1.0)
            return Estimate(value, low, high, sd, len(values), "t")
        sd = 0.0
    low, high, interval = over_images()
    return Estimate(values[0], low, high, sd, len(values), interval)


def share_of(values: Sequence[float], n: int) -> Estimate:
    """A share of right or wrong that is of some images alone: where it does not vary between seeds,
    with Wilson's interval of n images, and all of [0, 1] where there are none.

    Args:
        values: one per seed.
        n: images that it is of, in the first.
    """

    def over_images() -> tuple[float, float, str]:
        return *(wilson(round(values[0] * n), n) if n else (0.0, 1.0)), "wilson"

    return estimate_by(values, True, over_images)


def _over_images(values: Floats, share: bool) -> tuple[float, float, str]:
    """Interval of a mean of [n] numbers by drawing images, and how it was made."""
    if share and not np.isnan(values).any():
        if np.isin(values, (0.0, 1.0)).all():
            return *wilson(int(values.sum()), len(values)), "wilson"
        return *agresti_coull(values), "agresti-coull"
    low, high = bootstrap_mean(values) if len(values) > 1 else (math.nan, math.nan)
    return low, high, "bootstrap"


def agresti_coull(values: Floats) -> tuple[float, float]:
    """Interval of the mean of [n] numbers in [0, 1], each an image's share over conditions.

    That of Agresti and Coull (1998, "Approximate is better than 'exact'"): Wald's after z²/2 images
    that are right and z²/2 that are wrong were added, here with the variance that the images have
    instead of that of right and wrong answers,

        centre c = (sum + z²/2) / (n + z²), variance (sum of squares + z²/2) / (n + z²) - c².

    A bootstrap of images that are all alike has no width, as if 0 of 500 under every budget were
    known to be 0 for ever, and one of few that are not is too narrow: of 500 images of which 1 or 2
    are expected to be right under some of five budgets, it holds the true mean in 63 and 80 of 100
    cases, this in 99 and 98 (`python benchmarks/error_rates.py`).
    """
    n, total = len(values), float(values.sum())
    z = float(special.ndtri(UPPER))
    centre = (total + z * z / 2) / (n + z * z)
    variance = (float((values**2).sum()) + z * z / 2) / (n + z * z) - centre**2
    half = z * math.sqrt(variance / (n + z * z))
    low, high = min(centre - half, total / n), max(centre + half, total / n)
    return max(low, 0.0), min(high, 1.0)


def constant(values: ArrayLike) -> bool:
    """Whether numbers are the same but for rounding."""
    found = np.asarray(values, np.float64)
    return bool(np.ptp(found) <= 1e-12 * max(float(np.abs(found).max()), 1e-300))
