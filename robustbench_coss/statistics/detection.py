"""Telling images of one kind from others by a score: arrays in, numbers for each image out.

Images of the data set itself are the positive class and have the higher scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from robustbench_coss.statistics.intervals import Floats

RECALL = 0.95
_SLOPE = 0.04  # of recall on either side of 95 %, over which the slope of the curve is taken

Parts = tuple[float, Floats, Floats]
"""A number of two independent samples, and what each of their images adds to its error, [n] and [m]
of mean 0: the number varies as the sum of the means of both."""


def auroc(own: Floats, other: Floats) -> Parts:
    """Chance that an image of the data set scores higher than another, ties counting half.

    Errors are those of DeLong, DeLong and Clarke-Pearson (1988, "Comparing the areas under two or
    more correlated receiver operating characteristic curves"): each image's share of wins.

    Args:
        own, other: [n] and [m] scores.
    """
    won = _wins(own, other)
    lost = 1 - _wins(other, own)
    value = float(won.mean())
    return value, np.asarray(won - value), np.asarray(lost - value)


def fpr(own: Floats, other: Floats) -> Parts:
    """Share of other images at or above the threshold at which 95 % of the data set are, or as few
    more as ties leave no choice about: FPR@95.

    It varies as other images above the threshold do and, by the slope of the curve there, as those
    of the data set do (Hsieh and Turnbull 1996, "Nonparametric and semiparametric estimation of the
    receiver operating characteristic curve"). The slope is taken between recalls of 91 and 99 %.
    """
    threshold = _threshold(own, RECALL)
    above, kept = other >= threshold, own >= threshold
    value = float(above.mean())
    low, high = (float((other >= _threshold(own, RECALL + s)).mean()) for s in (-_SLOPE, _SLOPE))
    slope = (high - low) / (2 * _SLOPE)
    return value, np.asarray(-slope * (kept - kept.mean())), np.asarray(above - value)


def _threshold(own: Floats, recall: float) -> float:
    """The largest score that at least this share of scores reaches."""
    place = math.ceil(recall * len(own) - 1e-9)
    return float(np.sort(own)[::-1][place - 1])


def _wins(scores: Floats, against: Floats) -> Floats:
    """[n] share of other scores below each, ties counting half."""
    ranked = np.sort(against)
    below = np.searchsorted(ranked, scores, "left") + np.searchsorted(ranked, scores, "right")
    return np.asarray(below / (2 * len(ranked)))


def pseudo_values(
    number: Callable[[Floats, Floats], Parts], own: Floats, others: Sequence[Floats]
) -> Floats:
    """[n + m + …] numbers whose mean is a number, averaged over sets of other images, and whose
    spread is that of its estimate: an interval that resamples them is one of that average.

    Args:
        own: [n] scores of the data set, which all sets share.
        others: [m] scores of each set.

    Returns:
        NaN throughout where a score is not finite.
    """
    total = len(own) + sum(map(len, others))
    if not all(np.isfinite(scores).all() for scores in (own, *others)):
        return np.full(total, math.nan)
    found = [number(own, other) for other in others]
    value = float(np.mean([value for value, _, _ in found]))
    shared = np.mean([mine for _, mine, _ in found], axis=0)
    parts = [total / len(own) * shared]
    parts += [total / len(theirs) * theirs / len(found) for _, _, theirs in found]
    return value + np.concatenate(parts)
