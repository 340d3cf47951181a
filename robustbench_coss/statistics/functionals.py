"""Numbers that are no mean of a column: functions of how often each row of several columns occurs.

Where few rows are distinct, as of right and wrong beside a probability in 256 steps, drawing images
is drawing how often each row occurs, which is what makes thousands of draws cheap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_coss.statistics.intervals import (
    UPPER,
    Estimate,
    Floats,
    estimate,
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
    values = {k: np.asarray(columns[k], np.float64) for k in statistic.columns}
    number = np.zeros(len(next(iter(values.values()))), np.int64)  # of a row, in their order
    for column in values.values():
        levels, place = np.unique(column, return_inverse=True)
        number = number * len(levels) + place
    _, first, inverse, counts = np.unique(
        number, return_index=True, return_inverse=True, return_counts=True
    )
    rows = {k: column[first] for k, column in values.items()}
    return _Table(rows, counts.astype(np.float64), inverse)


def _value(statistic: Statistic, table: _Table) -> float:
    return float(statistic.of(table.rows, table.counts[None])[0])


def pseudo_values(statistic: Statistic, columns: Columns) -> Floats:
    """[n] numbers whose mean is the statistic and whose spread is that of its estimate.

    Of a mean its own; else those of the jackknife, n S - (n - 1) S without the image (Efron and
    Tibshirani 1993, section 11.5), moved so that their mean is S. What is known of means of
    paired images, tests and several seeds, then holds of S to first order.
    """
    table = _table(statistic, columns)
    if statistic.each is not None:
        return np.asarray(statistic.each(table.rows)[table.inverse])
    n, value = len(table.inverse), _value(statistic, table)
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

    A single run under one condition: a percentile bootstrap over images (Efron and Tibshirani 1993,
    section 13.3). A function that is no mean is biased, and in samples of a sample by as much
    again: the interval is moved so that the mean of the draws is at the value. Several conditions,
    several seeds, and statistics that are means: as `intervals.estimate` of pseudo-values, which is
    a bootstrap of what each image contributes under all conditions.

    Args:
        runs: for each seed, for each condition its columns.
    """
    if len(runs) == 1 and len(runs[0]) == 1 and statistic.each is None:
        table = _table(statistic, runs[0][0])
        value = _value(statistic, table)
        low, high = _bootstrap(table, statistic, value)
        found = Estimate(value, low, high, math.nan, 1, "bootstrap")
    else:
        found = estimate([[pseudo_values(statistic, each) for each in run] for run in runs])
    if statistic.share:
        found = replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0))
    return found


def _bootstrap(table: _Table, statistic: Statistic, value: float) -> tuple[float, float]:
    n = len(table.inverse)
    if n < 2 or math.isnan(value):
        return math.nan, math.nan
    columns = np.stack([column[table.inverse] for column in table.rows.values()])
    generator = generator_for("bootstrap", columns)
    step = max(1, _CHUNK // len(table.counts))
    drawn = np.concatenate(
        [
            statistic.of(table.rows, generator.multinomial(n, table.counts / n, size).astype(float))
            for start in range(0, RESAMPLES, step)
            for size in [min(step, RESAMPLES - start)]
        ]
    )
    drawn = drawn[~np.isnan(drawn)]  # draws without a single right or a single wrong answer
    if not drawn.size:
        return math.nan, math.nan
    low, high = np.quantile(drawn, [1 - UPPER, UPPER]) - (drawn.mean() - value)
    return min(float(low), value), max(float(high), value)
