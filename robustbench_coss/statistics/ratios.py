"""Ratios of means whose divisor was measured too: arrays in, estimates out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from robustbench_coss.statistics.contrasts import Seeds, contrast, over_seeds
from robustbench_coss.statistics.intervals import Estimate, Floats, bootstrap_mean

LARGEST_CV = 0.1
"""Of a divisor: where its standard error is a larger share of it, a linearised ratio is not near
normal (Cochran 1977, "Sampling techniques", chapter 6)."""


def ratio(tops: Sequence[Floats], bottoms: Sequence[Floats], seeds: Seeds) -> Estimate:
    """A ratio R (or a mean of ratios) with an interval for the sampling of both of its sides.

    The images that one side has drawn the other has too, and seeds may coincide. To first order
    R varies as a difference does (the delta method; Cochran 1977, chapter 6): of A / B as the
    mean of a / B - R b / B over images. That difference has the interval of `contrast`: over the
    seeds that both have, if two or more; over those of either, independent, if fewer; where one
    side is a single run, over the other's, that run's seed staying as it is; of two single runs a
    bootstrap over images.

    Args:
        tops: for each run of the one side [n] what images contribute to R, a / B: its mean over
            runs and images is R.
        bottoms: likewise for the other side R b / B, of the same images; its mean is R as well.
        seeds: of the runs of either side.

    Returns:
        `sd` is that of the tops' means. Ends are NaN if R is, or for a single image.
    """
    means = [float(run.mean()) for run in tops]
    value = float(np.mean(means))
    sd = float(np.std(means, ddof=1)) if len(means) > 1 else math.nan
    if len(tops) == len(bottoms) == 1:
        change = tops[0] - bottoms[0]
        low, high = bootstrap_mean(change) if len(change) > 1 else (math.nan, math.nan)
        return Estimate(value, value + low, value + high, sd, 1, "bootstrap")
    groups, weights = [list(tops), list(bottoms)], [1.0, -1.0]
    if len(bottoms) == 1:
        groups, weights, seeds = [[run - bottoms[0] for run in tops]], [1.0], seeds[:1]
    elif len(tops) == 1:
        groups, weights, seeds = [[tops[0] - run for run in bottoms]], [1.0], seeds[1:]
    elif not over_seeds(seeds):
        seeds = [[(side, seed) for seed in mine] for side, mine in enumerate(seeds)]
    found = contrast(groups, weights, seeds)
    # Seeds that one side alone has are in the value and not in the contrast.
    low, high = value + found.low - found.value, value + found.high - found.value
    return Estimate(value, low, high, sd, len(tops), "t" if found.test == "t" else "bootstrap")


def coefficient_of_variation(runs: Sequence[Floats]) -> float:
    """Standard error of a mean over runs and images, as a share of it; infinite for means <= 0.

    Args:
        runs: [n] per run. The variance between images and, of several, that between runs add up.
    """
    means = [float(run.mean()) for run in runs]
    per_image = np.mean(np.stack(list(runs)), axis=0)
    if np.mean(means) <= 0 or len(per_image) < 2:
        return math.inf
    variance = float(per_image.var(ddof=1)) / len(per_image)
    if len(means) > 1:
        variance += float(np.var(means, ddof=1)) / len(means)
    return math.sqrt(variance) / float(np.mean(means))
