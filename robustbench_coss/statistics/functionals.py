"""Numbers that are no mean of a column: functions of how often each row of several columns occurs.

Where few rows are distinct, as of right and wrong beside a probability in 256 steps, drawing images
is drawing how often each row occurs, which is what makes thousands of draws cheap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_coss.statistics.intervals import (
    UPPER,
    Estimate,
    Floats,
    estimate,
    estimate_by,
    generator_for,
)

RESAMPLES = 1000
"""Bootstrap samples of a function of columns."""
_CHUNK = 2**22  # counts at a time, 32 MiB

Columns = Mapping[str, NDArray[Any]]
"""Columns of the same images by name, [n] each."""
Rows = Mapping[str, Floats]
"""Distinct rows of several columns: each column by name, [K]."""


@dataclass(frozen=True)
class Statistic:
    """A number of one condition that is computed from several columns of outcomes.

    Attributes:
        columns: those that it needs.
        of: rows [K] and how often each occurs, [R, K], to [R] numbers; NaN where there is none.
        share: it lies in [0, 1] by nature.
        each: rows to the [K] numbers whose mean it is, where it is a mean.
    """

    columns: tuple[str, ...]
    of: Callable[[Rows, Floats], Floats]
    share: bool
    each: Callable[[Rows], Floats] | None = None


def mean_of(columns: tuple[str, ...], each: Callable[[Rows], Floats], share: bool) -> Statistic:
    """The statistic that is the mean of a number of each row."""

    def of(rows: Rows, counts: Floats) -> Floats:
        return np.asarray(counts @ each(rows) / counts.sum(axis=-1))

    return Statistic(columns, of, share, each)


@dataclass(frozen=True)
class _Table:
    """Columns as their distinct rows, how often each occurs, and which one each image has."""

    rows: Rows
    counts: Floats
    inverse: NDArray[np.int64]


def _table(statistic: Statistic, columns: Columns) -> _Table:
    stacked = np.stack([np.asarray(columns[k], np.float64) for k in statistic.columns], axis=1)
    distinct, inverse, counts = np.unique(stacked, axis=0, return_inverse=True, return_counts=True)
    rows = dict(zip(statistic.columns, distinct.T, strict=True))
    return _Table(rows, counts.astype(np.float64), inverse.reshape(-1))


def value_of(statistic: Statistic, columns: Columns) -> float:
    """The statistic of one condition; NaN where it has none."""
    table = _table(statistic, columns)
    return float(statistic.of(table.rows, table.counts[None])[0])


def pseudo_values(statistic: Statistic, columns: Columns) -> Floats:
    """[n] numbers whose mean is the statistic and whose spread is that of its estimate.

    Of a mean its own; else those of the jackknife, n S - (n - 1) S without the image (Efron and
    Tibshirani 1993, section 11.5), moved so that their mean is S. What is known of means of
    paired images, tests and several seeds, then holds of S to first order.
    """
    table = _table(statistic, columns)
    n, value = len(table.inverse), float(statistic.of(table.rows, table.counts[None])[0])
    if statistic.each is not None:
        return np.asarray(statistic.each(table.rows)[table.inverse])
    if math.isnan(value) or n < 2:
        return np.full(n, value)
    kinds = len(table.counts)
    step, without = max(1, _CHUNK // kinds), []
    for start in range(0, kinds, step):
        left = np.arange(start, min(start + step, kinds))
        counts = np.repeat(table.counts[None], len(left), axis=0)
        counts[np.arange(len(left)), left] -= 1
        without.append(statistic.of(table.rows, counts))
    # One right answer among wrong ones: without it there is no number, and nothing is known of it.
    found = (n * value - (n - 1) * np.concatenate(without))[table.inverse]
    return np.asarray(found - found.mean() + value)


def estimate_of(statistic: Statistic, runs: Sequence[Sequence[Columns]]) -> Estimate:
    """A statistic, averaged over conditions and seeds, with its 95 % interval.

    A single run: a percentile bootstrap over images (Efron and Tibshirani 1993, section 13.3), the
    same images under every condition. A function that is no mean is biased, and in samples of a
    sample by as much again: the interval is moved so that the mean of the draws is at the value.
    Several seeds, and statistics that are means: as `intervals.estimate`.

    Args:
        runs: for each seed, for each condition its columns.
    """
    if statistic.each is not None:
        return estimate([[pseudo_values(statistic, each) for each in run] for run in runs])
    values = [float(np.mean([value_of(statistic, each) for each in run])) for run in runs]
    conditions = [each for run in runs for each in run]  # alike runs have the images in common
    return estimate_by(values, statistic.share, lambda: _bootstrap(statistic, conditions))


def _bootstrap(statistic: Statistic, conditions: Sequence[Columns]) -> tuple[float, float, str]:
    tables = [_table(statistic, columns) for columns in conditions]
    n = len(tables[0].inverse)
    value = float(np.mean([statistic.of(t.rows, t.counts[None])[0] for t in tables]))
    if n < 2 or math.isnan(value):
        return math.nan, math.nan, "bootstrap"
    stacked = [np.asarray(c[k], np.float64) for c in conditions for k in statistic.columns]
    generator = generator_for("bootstrap", np.stack(stacked))
    if len(tables) == 1:
        (table,) = tables
        step = max(1, _CHUNK // len(table.counts))
        parts = [
            statistic.of(table.rows, generator.multinomial(n, table.counts / n, size).astype(float))
            for start in range(0, RESAMPLES, step)
            for size in [min(step, RESAMPLES - start)]
        ]
        drawn = np.concatenate(parts)
    else:
        drawn = np.concatenate([*_jointly(statistic, tables, n, generator)])
    drawn = drawn[~np.isnan(drawn)]  # draws without a single right or a single wrong answer
    if not drawn.size:
        return math.nan, math.nan, "bootstrap"
    low, high = np.quantile(drawn, [1 - UPPER, UPPER]) - (drawn.mean() - value)
    if statistic.share:
        low, high = max(low, 0.0), min(high, 1.0)
    return min(float(low), value), max(float(high), value), "bootstrap"


def _jointly(
    statistic: Statistic, tables: Sequence[_Table], n: int, generator: np.random.Generator
) -> list[Floats]:
    """Draws of the mean over conditions, of which each sees the same images."""
    from scipy import sparse  # a sixth of a second, which most tables do without

    which = [
        sparse.csr_matrix((np.ones(n), (t.inverse, np.arange(n))), (len(t.counts), n))
        for t in tables
    ]
    found, step = [], max(1, _CHUNK // n)
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        chosen = generator.integers(0, n, (size, n))
        images = np.stack([np.bincount(row, minlength=n) for row in chosen], axis=1).astype(float)
        several = [
            statistic.of(t.rows, np.ascontiguousarray((w @ images).T))
            for t, w in zip(tables, which, strict=True)
        ]
        found.append(np.mean(several, axis=0))
    return found
