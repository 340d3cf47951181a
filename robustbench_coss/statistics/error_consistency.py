"""Whether two observers err on the same images more often than their accuracies alone make them.

Cohen's (1960) kappa of right and wrong, as Geirhos, Meding and Wichmann 2020 take it (arXiv
2006.16736): arrays in, estimates out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_coss.statistics.functionals import (
    Columns,
    Rows,
    Statistic,
    pseudo_values,
)
from robustbench_coss.statistics.intervals import Estimate, Floats, estimate

Pair = tuple[NDArray[Any], NDArray[Any]]
"""[n] bool each: whether either observer is right on each of the same images."""


def _observed(rows: Rows, counts: Floats) -> Floats:
    return np.asarray(counts @ (rows["a"] == rows["b"]) / counts.sum(axis=-1))


def _expected(rows: Rows, counts: Floats) -> Floats:
    n = counts.sum(axis=-1)
    a, b = counts @ rows["a"] / n, counts @ rows["b"] / n
    return np.asarray(a * b + (1 - a) * (1 - b))


def _kappa(rows: Rows, counts: Floats) -> Floats:
    observed, expected = _observed(rows, counts), _expected(rows, counts)
    # Both always right, or always wrong: they agree, whatever was to be expected.
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (observed - expected) / (1 - expected)
    return np.where(observed == 1, 1.0, found)


_KAPPA = Statistic(("a", "b"), _kappa, share=False)


def consistency(runs: Sequence[Sequence[Pair]]) -> Estimate:
    """Cohen's kappa of two observers, averaged over conditions and runs, with its 95 % interval:
    over runs where there are several, else a bootstrap of what each image contributes
    (`functionals.pseudo_values`).

    (observed - expected) / (1 - expected) of the observed share of images on which both are right
    or both wrong, and p q + (1 - p) (1 - q), what is expected of it: 0 where they agree as often as
    independent observers of their accuracies would, 1 where always.

    Args:
        runs: for each pair of runs, for each condition.
    """
    several = [[pseudo_values(_KAPPA, _columns(pair)) for pair in run] for run in runs]
    found = estimate(several)
    return replace(found, low=max(found.low, -1.0), high=min(found.high, 1.0))


def agreement(runs: Sequence[Sequence[Pair]]) -> tuple[float, float]:
    """The observed agreement and the expected one, averaged over conditions and runs."""
    pairs = [_columns(pair) for run in runs for pair in run]
    observed, expected = (
        float(np.mean([share(pair, np.ones(len(pair["a"]))) for pair in pairs]))
        for share in (_observed, _expected)
    )
    return observed, expected


def _columns(pair: Pair) -> Columns:
    return {"a": pair[0], "b": pair[1]}


def kappa_of_images(parts: Sequence[tuple[Sequence[int], Pair, float]]) -> Floats:
    """[m] numbers whose mean is a weighted mean of kappas of overlapping sets of images, and whose
    spread is that of its estimate; m images are in any of them.

    Args:
        parts: for each set the numbers of its images, the answers to them, and its weight; weights
            sum to 1.
    """
    images = np.unique(np.concatenate([np.asarray(rows) for rows, _, _ in parts]))
    change, value = np.zeros(len(images)), 0.0
    for rows, pair, weight in parts:
        numbers = pseudo_values(_KAPPA, _columns(pair))
        kappa = float(numbers.mean())
        value += weight * kappa
        place = np.searchsorted(images, rows)
        np.add.at(change, place, weight * len(images) / len(place) * (numbers - kappa))
    return value + change
