"""The smallest share of something, measured at a few levels, that keeps 95 % of the accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustbench_coss.statistics.intervals import (
    RESAMPLES,
    UPPER,
    Estimate,
    combine_seeds,
    generator_for,
)

KEPT = 0.95


def smallest_share(levels: ArrayLike, accuracies: ArrayLike) -> NDArray[np.float64]:
    """Smallest measured level whose accuracy is at least 95 % of that at level 1.

    Nothing is interpolated between measured levels.

    Args:
        levels: [L] in (0, 1], in any order, 1 among them.
        accuracies: [..., L], in the same order.

    Returns:
        [...], each one of the levels.

    Raises:
        ValueError: the level 1 is missing, or the lengths differ.
    """
    at, accuracy = np.asarray(levels, np.float64), np.asarray(accuracies, np.float64)
    if not (at == 1).any() or at.shape != accuracy.shape[-1:]:
        raise ValueError("there must be an accuracy for every level, and 1 among the levels")
    whole = accuracy[..., at == 1][..., :1]
    # Accuracies are ratios of counts: rounding must not decide a tie.
    kept = accuracy >= KEPT * whole - 1e-9
    return np.asarray(np.where(kept, at, math.inf).min(axis=-1))


def share_for_95_percent(
    levels: Sequence[float], runs: Sequence[Sequence[NDArray[Any]]]
) -> Estimate:
    """The smallest share that keeps 95 % of the accuracy, with its 95 % interval.

    One run: percentile bootstrap over images, all levels resampled together, since they show the
    same images. Several seeds: mean and Student's t interval of the seeds' own shares, cut at 0
    and 1. Both move in steps of the measured levels: an interval without width says that no other
    level was reached, not that the share is known exactly.

    Args:
        levels: [L] in (0, 1], 1 among them.
        runs: for each seed the outcome columns, one [n] per level. A bootstrap draw is keyed by
            them.

    Raises:
        ValueError: as `smallest_share`, or there is no run.
    """
    means = [[np.mean(column, dtype=np.float64) for column in run] for run in runs]
    found = [float(share) for share in smallest_share(levels, means)]
    if len(found) > 1:
        value, sd, (low, high) = combine_seeds(found)
        return Estimate(value, max(low, 0.0), min(high, 1.0), sd, len(found), "t")
    hits = np.stack(list(runs[0]), axis=1).astype(np.float64)
    shares = smallest_share(levels, _resampled_means(hits))
    # Ends are measured levels too, not points between two of them.
    low = float(np.quantile(shares, 1 - UPPER, method="inverted_cdf"))
    high = float(np.quantile(shares, UPPER, method="inverted_cdf"))
    return Estimate(found[0], low, high, math.nan, 1, "bootstrap")


def _resampled_means(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """[RESAMPLES, L]: column means of bootstrap samples of [n, L] rows."""
    # Rows of a few booleans take few values. Drawing how often each occurs is the same draw as
    # drawing rows, and much cheaper.
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    generator = generator_for("share bootstrap", rows)
    step = max(1, 2**21 // len(distinct))  # at most 16 MiB of counts at a time
    means = [
        generator.multinomial(len(rows), counts / len(rows), size=min(step, RESAMPLES - start))
        @ distinct
        / len(rows)
        for start in range(0, RESAMPLES, step)
    ]
    return np.concatenate(means)
