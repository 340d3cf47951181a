"""From the probabilities in records to statistics of them: NLL, Brier score, ECE and the like.

A statistic stands wherever a column of outcomes may, as long as a condition has no column of that
name: `numbers.number` gives it an interval, `numbers.values_of` numbers for each image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from robustbench_coss.analysis.configurations import SeedGroup
from robustbench_coss.errors import CossError
from robustbench_coss.records.columns import Column
from robustbench_coss.records.confidence import (
    CONFIDENCE,
    OTHERS,
    STATISTICS,
    TRUE_CLASS,
    has,
    logits_of,
    squares_of,
)
from robustbench_coss.records.record import Better, Metric, Record
from robustbench_coss.statistics.calibration import AUROC, BRIER, COVERED, ECE, NLL
from robustbench_coss.statistics.functionals import Statistic

SHOWN = ("clean_top1", "corruption_top1")
"""Metrics beside which the leaderboard shows the ECE."""
ON_PAGES = ("nll", "ece")
_DECODE = {CONFIDENCE: logits_of, TRUE_CLASS: logits_of, OTHERS: squares_of}


@dataclass(frozen=True)
class Named:
    """A statistic as tables have it.

    Attributes:
        label: in place of "top-1" in a heading.
        percent: whether it is shown in %.
    """

    statistic: Statistic
    label: str
    better: Better
    percent: bool


NAMED = {
    "nll": Named(NLL, "NLL (nats)", "lower", False),
    "brier": Named(BRIER, "Brier score", "lower", False),
    "ece": Named(ECE, "ECE", "lower", True),
    "auroc": Named(AUROC, "AUROC of being right", "higher", True),
    "accuracy_at_80": Named(COVERED, "accuracy at 80 % coverage", "higher", True),
}
assert NAMED.keys() == STATISTICS.keys()


def computed(outcomes: Mapping[str, Column], column: str) -> Statistic | None:
    """The statistic that a name stands for under a condition; None for a column of outcomes."""
    return NAMED[column].statistic if column in NAMED and column not in outcomes else None


def inputs(outcomes: Mapping[str, Column], statistic: Statistic) -> dict[str, Column]:
    """The columns that a statistic is computed from. Raises KeyError where one is not there."""
    return {
        name: _DECODE[name](outcomes[name]) if name in _DECODE else outcomes[name]
        for name in statistic.columns
    }


def with_calibration(
    measured: Sequence[SeedGroup], asked: Sequence[str] | None = None
) -> list[SeedGroup]:
    """Measurements whose records report statistics beside their headline top-1, too.

    Args:
        asked: only those of these names ("clean_ece") or headings; None for all.

    Raises:
        CossError: all were asked for and no record holds probabilities.
    """
    wanted = None if asked is None else {name.strip().casefold() for name in asked}
    found = _with(
        measured, lambda k: wanted is None or {k.name.casefold(), k.label.casefold()} & wanted
    )
    if asked is None and sum(len(m.records[0].metrics) for m in found) == sum(
        len(m.records[0].metrics) for m in measured
    ):
        raise CossError(
            "no record holds probabilities, which were not kept at first; measure again with "
            "`coss-bench eval … --force`"
        )
    return found


def for_pages(measured: Sequence[SeedGroup]) -> list[SeedGroup]:
    """As `with_calibration`, of what fits a page and nothing of it in the leaderboard."""
    found = _with(measured, lambda k: k.column in ON_PAGES)
    for record in (r for m in found for r in m.records):
        record.metrics = [
            replace(k, headline=False) if k.column in ON_PAGES else k for k in record.metrics
        ]
    return found


def _with(measured: Sequence[SeedGroup], keep: Callable[[Metric], Any]) -> list[SeedGroup]:
    found = []
    for m in measured:
        metrics = [k for k in calibration_metrics(m.records) if keep(k)]
        found.append(replace(m, records=tuple(_adding(r, metrics) for r in m.records)))
    return found


def calibration_metrics(records: Sequence[Record]) -> list[Metric]:
    """Statistics over the conditions of each headline metric that is a mean of right and wrong,
    where all runs hold what they are computed from."""
    cells = [{cell.condition: cell.outcomes for cell in record.cells} for record in records]
    found = []
    for base in records[0].metrics:
        if base.column != "correct" or not base.headline:
            continue
        for name, named in NAMED.items():
            if all(has(of[c], name) for of in cells for c in base.conditions):
                found.append(
                    Metric(
                        f"{base.name.removesuffix('_top1')}_{name}",
                        _label(base.label, named.label),
                        name,
                        base.conditions,
                        named.better,
                        named.percent,
                        headline=name == "ece" and base.name in SHOWN,
                    )
                )
    return found


def _label(base: str, label: str) -> str:
    """ "Clean ECE" beside "Clean top-1"; "Top-1 from one local: ECE" where nothing is replaced."""
    return f"{base.removesuffix('top-1')}{label}" if base.endswith(" top-1") else f"{base}: {label}"


def _adding(record: Record, metrics: Sequence[Metric]) -> Record:
    new = copy(record)
    new.metrics = [*record.metrics, *metrics]
    return new


def conditions_table(measured: Sequence[SeedGroup]) -> pd.DataFrame:
    """Every statistic of every condition in long form.

    Columns: test_set, model, suite, protocol, condition, group, level, statistic, value, low, high,
    sd, seeds, n, interval.
    """
    from robustbench_coss.analysis.numbers import number

    lines = []
    for m in measured:
        cells = [{cell.condition: cell for cell in record.cells} for record in m.records]
        for name, cell in cells[0].items():
            for statistic in NAMED:
                if not all(
                    name in of
                    and statistic not in of[name].outcomes
                    and has(of[name].outcomes, statistic)
                    for of in cells
                ):
                    continue
                about = {
                    "test_set": m.test_set.label,
                    "model": m.label,
                    "suite": m.suite,
                    "protocol": m.protocol,
                    "condition": name,
                    "group": cell.group,
                    "level": cell.level,
                    "statistic": statistic,
                }
                found = number(m.records, [name], statistic)
                lines.append(about | m.columns(found, cell.outcomes["correct"].size))
    return pd.DataFrame(lines)
