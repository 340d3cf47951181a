"""What figures show, as tables: curves, metrics and training sweeps. Draws nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from robustbench_coss.analysis.configurations import (
    SeedGroup,
    along,
    setting,
    without_local_term,
)
from robustbench_coss.analysis.numbers import columns_of, images_of, number
from robustbench_coss.records.confidence import has
from robustbench_coss.records.record import Axis, Metric, Record
from robustbench_coss.statistics.sufficient_share import KEPT, share_for_95_percent


def curve_data(measurements: Sequence[SeedGroup], axis: Axis | None = None) -> pd.DataFrame:
    """What a suite's curves show: one line per model, group and level.

    Conditions that share group and level are averaged. The reference (empty group) starts every
    group's curve. Columns: suite, model, group, level, conditions, by_seed (see `_by_seed`), value,
    low, high, sd, seeds, n, interval. Empty if no group but the reference has the y column.

    Args:
        axis: what is drawn along y; None takes the suite's own.
    """
    lines = []
    for m in measurements:
        y = axis or m.records[0].axis
        points = _points(m.records[0], y.column)
        if not any(group for group, _ in points):
            continue
        for (group, level), conditions in points.items():
            about = {"group": group, "level": level, "conditions": len(conditions)}
            about["by_seed"] = _by_seed(m, conditions, y.column)
            lines.append(_data_line(m, about, conditions, y.column))
    return pd.DataFrame(lines)


MOST_DOTS = 4  # seeds that are shown one by one beside their mean


def _by_seed(m: SeedGroup, conditions: Sequence[str], column: str) -> str:
    """The value of each seed, of few of them, as "0.61 0.64"; "" of one seed and of many."""
    if not 1 < len(m.records) <= MOST_DOTS:
        return ""
    means = (np.mean(columns_of(record, conditions, column)) for record in m.records)
    return " ".join(f"{mean:.6g}" for mean in means)


def _points(record: Record, column: str) -> dict[tuple[str, float], list[str]]:
    """(group, level) -> names of the conditions there that have an outcome column, or all that a
    statistic of that name is computed from."""
    points: dict[tuple[str, float], list[str]] = {}
    for cell in record.cells:
        if has(cell.outcomes, column):
            points.setdefault((cell.group, cell.level), []).append(cell.condition)
    return points


def share_data(measurements: Sequence[SeedGroup]) -> pd.DataFrame:
    """The smallest share that keeps 95 % of the reference value: one line per model and group.

    Columns as `curve_data`; group "95 % kept: GROUP", value the share, level that of the
    accuracy kept. Empty unless the reference is measured at the share 1.
    """
    lines = []
    for m in measurements:
        column = m.records[0].axis.column
        points = _points(m.records[0], column)
        groups = dict.fromkeys(group for group, _ in points if group)
        for group in groups if ("", 1.0) in points else ():
            at = {level: names for (g, level), names in points.items() if g in ("", group)}
            runs = [
                [np.mean([r.column(c, column) for c in names], axis=0) for names in at.values()]
                for r in m.records
            ]
            about = {"group": f"95 % kept: {group}", "level": KEPT, "conditions": len(at)}
            found = share_for_95_percent(list(at), runs)
            lines.append(_told(m) | about | m.columns(found, runs[0][0].size))
    return pd.DataFrame(lines)


def metric_data(measurements: Sequence[SeedGroup], metrics: Sequence[Metric]) -> pd.DataFrame:
    """Metrics with intervals: one line per model and metric.

    Columns: suite, model, metric, heading, percent, by_seed (see `_by_seed`), value, low, high, sd,
    seeds, n, interval.
    """
    lines = []
    for m in measurements:
        for metric in metrics:
            about = {
                "metric": metric.name,
                "heading": m.heading(metric.label),
                "percent": metric.percent,
                "by_seed": _by_seed(m, metric.conditions, metric.column),
            }
            lines.append(_data_line(m, about, metric.conditions, metric.column))
    return pd.DataFrame(lines)


def _data_line(
    m: SeedGroup, about: dict[str, Any], conditions: Sequence[str], column: str
) -> dict[str, Any]:
    """A line with a number as the leaderboard has it."""
    found = number(m.records, conditions, column)
    return _told(m) | about | m.columns(found, images_of(m.records[0], conditions))


def _told(m: SeedGroup) -> dict[str, Any]:
    return {"suite": m.suite, "model": m.label}


def metrics_apart(record: Record) -> list[Metric]:
    """Metrics over conditions that no curve shows, such as a similarity beside accuracies."""
    drawn = {c.condition for c in record.cells if record.axis.column in c.outcomes}
    return [k for k in record.metrics if not drawn.intersection(k.conditions)]


MIN_CROP = "training.views.min_crop"

GRID = "training.options.grid"


def training_data(measurements: Sequence[SeedGroup], key: str) -> pd.DataFrame:
    """The first metric along a training setting: one line per family of models and value.

    A setting of the local term starts at level 0, the base method without that term, where one was
    measured. All positions (a grid of null) are the level infinity.

    Columns: suite, model, configuration, level, metric, value, low, high, sd, seeds, n, interval.
    """
    lines = []
    for shared, family in along(measurements, key).items():
        points = [(_level(m, key), m) for m in family]
        base = without_local_term(family[0], measurements) if key != MIN_CROP else None
        if base is not None and 0.0 not in dict(points):
            points.append((0.0, base))
        for level, m in sorted(points, key=lambda point: point[0]):
            metric = m.records[0].metrics[0]
            about = {
                "model": shared.label,
                "configuration": m.label,
                "level": level,
                "metric": metric.name,
            }
            lines.append(_data_line(m, about, metric.conditions, metric.column))
    return pd.DataFrame(lines)


def _level(m: SeedGroup, key: str) -> float:
    value = setting(m, key)
    if key == GRID:
        return math.inf if value is None else float(value) ** 2
    return float(value)


def field_data(measurements: Sequence[SeedGroup]) -> pd.DataFrame:
    """The first metric over architecture and smallest training crop.

    Columns: suite, model, arch, level, metric, value, low, high, sd, seeds, n, interval. Bounded
    fields come first, by size, then the other architectures by name.
    """
    lines = []
    for shared, family in along(measurements, "arch", MIN_CROP).items():
        for m in sorted(family, key=lambda m: (field_order(m.model["arch"]), _level(m, MIN_CROP))):
            metric = m.records[0].metrics[0]
            about = {
                "model": shared.label,
                "arch": m.model["arch"],
                "level": _level(m, MIN_CROP),
                "metric": metric.name,
            }
            lines.append(_data_line(m, about, metric.conditions, metric.column))
    return pd.DataFrame(lines)


def field_order(arch: str) -> tuple[float, str]:
    bounded = re.match(r"rf(\d+)_", arch)
    return (float(bounded[1]) if bounded else math.inf, arch)
