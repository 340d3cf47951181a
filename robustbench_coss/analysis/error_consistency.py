"""From records and trials of observers to error consistency: who is set against whom, and where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from robustbench_coss.analysis.configurations import SeedGroup
from robustbench_coss.analysis.pairing import seeds_of
from robustbench_coss.records.record import Metric
from robustbench_coss.statistics.error_consistency import Pair, agreement, consistency


def consistency_line(x: SeedGroup, y: SeedGroup, metric: Metric) -> dict[str, Any]:
    """Columns kappa, kappa_low, kappa_high, agreement, agreement_expected of two configurations:
    averages over conditions, and over runs of coinciding seeds, or of seeds in order where none
    coincide. Empty for a metric that is no mean of right and wrong.
    """
    if metric.column != "correct":
        return {}
    runs = [_pairs(x, y, metric, i, j) for i, j in _matched(x, y)]
    return columns(runs)


def columns(runs: Sequence[Sequence[Pair]]) -> dict[str, Any]:
    """The columns of `consistency_line` from pairs of answers by run and condition."""
    kappa, (observed, expected) = consistency(runs), agreement(runs)
    return {
        "kappa": kappa.value,
        "kappa_low": kappa.low,
        "kappa_high": kappa.high,
        "agreement": observed,
        "agreement_expected": expected,
    }


def _matched(x: SeedGroup, y: SeedGroup) -> list[tuple[int, int]]:
    mine, theirs = (seeds_of(m.records) for m in (x, y))
    same = [(i, theirs.index(seed)) for i, seed in enumerate(mine) if seed in theirs]
    return same or list(zip(range(len(mine)), range(len(theirs)), strict=False))


def _pairs(x: SeedGroup, y: SeedGroup, metric: Metric, i: int, j: int) -> list[Pair]:
    # Condition by condition: records need not hold them in one order.
    return [
        (x.records[i].column(name, metric.column), y.records[j].column(name, metric.column))
        for name in metric.conditions
    ]
