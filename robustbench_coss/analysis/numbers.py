"""Numbers of measurements: one function gives a value its interval, for every table and figure.

`number` is that function; `load_table` lists all metrics of a set of records in long form.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from robustbench_coss.analysis.calibration import computed, inputs, with_calibration
from robustbench_coss.analysis.configurations import (
    SeedGroup,
    load_measurements,
)
from robustbench_coss.analysis.corruption_error import (
    ALEXNET,
    ALEXNET_BASELINE,
    Baseline,
    baseline_of,
    corruption_estimates,
)
from robustbench_coss.analysis.selection import Chosen, find_model
from robustbench_coss.errors import CossError
from robustbench_coss.records.about import in_order
from robustbench_coss.records.columns import COUNTED, Column
from robustbench_coss.records.metadata import FACTS
from robustbench_coss.records.record import Cell, Metric, Record
from robustbench_coss.records.training import training_of
from robustbench_coss.statistics.functionals import estimate_of, pseudo_values
from robustbench_coss.statistics.intervals import Estimate, estimate, estimate_by, share_of

NO_METRIC = "no record states a metric; measure with a suite that has some, such as clean"
NOTHING = "no corruptions were measured; run `coss-bench eval RUN --suite corruption` first"


def number(records: Sequence[Record], conditions: Sequence[str], column: str) -> Estimate:
    """The mean of an outcome column over conditions, images and seeds, with its 95 % interval; or
    a statistic of several columns (`calibration`), averaged over conditions and seeds.

    The only way from outcomes to a number that is shown. It depends on the outcomes alone: not on
    the order of the conditions, on labels, or on what else is shown (see `intervals.estimate`).

    Args:
        records: one per seed of one configuration, as in `SeedGroup.records`.

    Raises:
        KeyError: a record lacks the column under a condition.
    """
    cells = [_in_order(record, conditions) for record in records]
    if (statistic := computed(cells[0][0].outcomes, column)) is not None:
        several = [[inputs(cell.outcomes, statistic) for cell in run] for run in cells]
        return estimate_of(statistic, several)
    runs = [columns_of(record, conditions, column) for record in records]
    if len(cells[0]) == 1 and all(COUNTED in cell.outcomes for (cell,) in cells):
        shares = [float(np.mean(values, dtype=np.float64)) for (values,) in runs]
        return share_of(shares, int(cells[0][0].outcomes[COUNTED].sum()))
    return estimate(runs, share=is_share(records[0], column))


def columns_of(record: Record, conditions: Sequence[str], column: str) -> list[Column]:
    """An outcome column under each of some conditions, in the record's order; of a statistic
    numbers whose mean it is. Raises KeyError."""
    found = []
    for cell in _in_order(record, conditions):
        statistic = computed(cell.outcomes, column)
        if statistic is None:
            found.append(cell.outcomes[column])
        else:
            found.append(pseudo_values(statistic, inputs(cell.outcomes, statistic)))
    return found


def _in_order(record: Record, conditions: Sequence[str]) -> list[Cell]:
    """Conditions in the record's order, each once. Raises KeyError."""
    cells = {cell.condition: cell for cell in record.cells}
    place = {name: i for i, name in enumerate(cells)}
    return [cells[name] for name in sorted(set(conditions), key=place.__getitem__)]


def images_of(record: Record, conditions: Sequence[str]) -> int:
    """How many images conditions were measured on, which need not be those of the record."""
    first, *_ = _in_order(record, conditions)
    return next(iter(first.outcomes.values())).size


def values_of(record: Record, metric: Metric) -> Column:
    """[n] the metric of each image; right or wrong stays boolean, averages are float64."""
    columns = columns_of(record, metric.conditions, metric.column)
    if len(columns) == 1:
        return columns[0]
    return np.asarray(np.mean(np.stack(columns).astype(np.float64), axis=0))


def is_share(record: Record, column: str) -> bool:
    """Whether an outcome column's mean is a share: as the axis or a metric states, or where they
    do not speak of it, if its values are right or wrong."""
    if computed(record.cells[0].outcomes, column) is not None:
        return False  # of images it is what they contribute, which is none
    if record.axis.column == column:
        return record.axis.percent
    stated = [metric.percent for metric in record.metrics if metric.column == column]
    if stated:
        return any(stated)
    return all(c.outcomes[column].dtype == bool for c in record.cells if column in c.outcomes)


def load_table(
    results: Path, baseline: str | None = None, calibration: bool = False
) -> pd.DataFrame:
    """Every metric of every configuration in long form, one line per configuration and metric.

    Columns: test_set, model, control ("pixels", "untrained" or ""), method, arch, width,
    parameters, pretrained_on, epochs, suite, protocol, protocol_note, metric, heading, value, low,
    high (95 % interval), sd (over seeds), seeds, n (test images), interval (one of
    `statistics.intervals.KINDS`), chance (top-1, in [0, 1]), better, percent, headline,
    failed_checks, problems (doubtful outcomes). Shares are in [0, 1]; what is not known is empty;
    suite is a category, in reading order. Lines are sorted by test set and clean top-1, best first,
    controls after all models.

    Args:
        baseline: add the metrics mCE and relative mCE, corruption errors divided by those of
            "alexnet" or of a measured model (see `selection.find_model`), and the column
            `baseline`, its name. What cannot be divided by them is warned of.
        calibration: add statistics of probabilities, see `calibration.with_calibration`.

    Raises:
        CossError: there are no complete records, one is damaged, the baseline is unknown or fits
            none of them, or calibration is asked for and no record holds probabilities.
    """
    measured = load_measurements(results)
    return table_of(with_calibration(measured) if calibration else measured, baseline)


def table_of(measurements: list[SeedGroup], baseline: str | None = None) -> pd.DataFrame:
    """The long table of `load_table` from measurements at hand, such as those of some models."""
    lines = [
        line
        for m in measurements
        for line in [*(_line(m, metric) for metric in m.records[0].metrics), *_fact_lines(m)]
    ]
    if baseline is not None:
        lines += _corruption_error_lines(measurements, baseline)
    if not lines:
        raise CossError(NO_METRIC)
    table = pd.DataFrame(lines)
    by_set: dict[str, list[SeedGroup]] = defaultdict(list)
    for m in measurements:
        by_set[m.test_set.label].append(m)
    place = {
        (label, model): i
        for label, here in by_set.items()
        for i, model in enumerate(rank_models(here))
    }
    rows = zip(table["test_set"], table["model"], strict=True)
    table["_place"] = [place[row] for row in rows]
    suites = in_order({m.suite: m.about for m in measurements})
    table["suite"] = pd.Categorical(table["suite"], suites, ordered=True)
    table["_position"] = range(len(table))  # metrics stay in the order the suite gives
    table = table.sort_values(["test_set", "_place", "suite", "protocol", "_position"])
    return table.drop(columns=["_place", "_position"]).reset_index(drop=True)


def with_metrics(measurements: Sequence[SeedGroup]) -> list[SeedGroup]:
    """The measurements of models that tables have a row for: that any suite states a metric of.

    Raises:
        CossError: there is none.
    """
    rows = {(m.test_set, m.label) for m in measurements if m.records[0].metrics}
    if not rows:
        raise CossError(NO_METRIC)
    return [m for m in measurements if (m.test_set, m.label) in rows]


def rank_models(measurements: Sequence[SeedGroup]) -> list[str]:
    """Configurations of one test set by clean top-1, best first: those measured under the clean
    suite's first protocol, then those under its next ones alone, then the others by name; controls
    after all of them."""
    clean: dict[str, tuple[int, float]] = {}
    protocols = list(dict.fromkeys(m.protocol for m in measurements if m.suite == "clean"))
    for m in measurements:
        if m.suite == "clean" and m.label not in clean:
            first = m.records[0].metrics[0]
            value = number(m.records, first.conditions, first.column).value
            clean[m.label] = protocols.index(m.protocol), -value
    last = len(protocols), 0.0
    apart = {m.label: bool(m.control) for m in measurements}
    return sorted(apart, key=lambda name: (apart[name], clean.get(name, last), name))


def _line(m: SeedGroup, metric: Metric) -> dict[str, Any]:
    found = number(m.records, metric.conditions, metric.column)
    return _line_of(m, metric, found, images_of(m.records[0], metric.conditions))


def fact(record: Record, name: str) -> float | None:
    """A number of the model that a record states beside its outcomes; None where it does not."""
    found = record.extra.get(FACTS, {}).get(name, {}).get("value")
    return float(found) if isinstance(found, int | float) else None


def _fact_lines(m: SeedGroup) -> Iterator[dict[str, Any]]:
    """Facts that all runs state, with Student's interval over several seeds and none of one."""
    for name, told in m.records[0].extra.get(FACTS, {}).items():
        values = [value for record in m.records if (value := fact(record, name)) is not None]
        if len(values) < len(m.records):
            continue
        of = tuple(cell.condition for cell in m.records[0].cells[:1])  # of none; it needs one
        metric = Metric(f"{m.suite}_{name}", str(told["label"]), name, of, "", False, False)
        found = estimate_by(values, False, lambda: (math.nan, math.nan, "bootstrap"))
        yield _line_of(m, metric, found, told.get("images", 0))


def _line_of(m: SeedGroup, metric: Metric, result: Estimate, n: int) -> dict[str, Any]:
    """A line of the long table."""
    return {
        "test_set": m.test_set.label,
        "model": m.label,
        "control": m.control,
        "method": m.model.get("method"),
        "arch": m.model.get("arch"),
        "width": m.model.get("width"),
        "parameters": m.model.get("parameters"),
        "pretrained_on": m.model.get("dataset"),
        "epochs": training_of(m.model).get("epochs"),
        "suite": m.suite,
        "protocol": m.protocol,
        "protocol_note": m.protocol_note,
        "metric": metric.name,
        "heading": m.heading(metric.label),
        **m.columns(result, n),
        "chance": m.test_set.chance,
        "better": metric.better,
        "percent": metric.percent,
        "headline": metric.headline,
        "failed_checks": failed_checks(m.records),
        "problems": problems(m.records),
    }


def failed_checks(records: Sequence[Record]) -> str:
    """ "name (2 of 5 seeds): detail of the first; …" or "" if every check passed."""
    failed: dict[str, list[str]] = {}
    for record in records:
        for check in record.checks:
            if not check.passed:
                failed.setdefault(check.name, []).append(check.detail)
    return "; ".join(
        f"{name}{_share_of_seeds(len(details), records)}: {details[0]}"
        for name, details in failed.items()
    )


def problems(records: Sequence[Record]) -> str:
    """ "fog@3 and 2 more conditions (2 of 5 seeds): detail of the first" or "" if none is."""
    found = [[cell for cell in record.cells if cell.problem] for record in records]
    doubtful = list(dict.fromkeys(cell.condition for cells in found for cell in cells))
    if not doubtful:
        return ""
    more = len(doubtful) - 1
    where = doubtful[0] + (f" and {more} more condition{'s' * (more > 1)}" if more else "")
    first = next(cell.problem for cells in found for cell in cells)
    return f"{where}{_share_of_seeds(sum(map(bool, found)), records)}: {first}"


def _share_of_seeds(count: int, records: Sequence[Record]) -> str:
    return f" ({count} of {len(records)} seeds)" if len(records) > 1 else ""


def _corruption_error_lines(measurements: list[SeedGroup], baseline: str) -> list[dict[str, Any]]:
    """Lines of mCE and relative mCE of every measurement of corruptions that a baseline fits."""
    chosen = None if baseline.casefold() == "alexnet" else find_model(measurements, baseline)
    lines, refused = [], defaultdict(list)
    for m in (m for m in measurements if m.suite == "corruption"):
        try:
            by = ALEXNET_BASELINE if chosen is None else _baseline_for(m, chosen)
            mce, relative = corruption_estimates(m.records, by)
        except CossError as error:
            refused[m.test_set.label, str(error)].append(m.label)
            continue
        for name, label, found in (
            ("corruption_mce", "mCE", mce),
            ("corruption_rmce", "Relative mCE", relative),
        ):
            # The corruptions say what it is about; nothing is averaged over them here.
            metric = Metric(name, label, "correct", tuple(ALEXNET), "lower")
            line = _line_of(m, metric, found, m.records[0].index.size)
            lines.append(line | {"baseline": by.name})
    if not lines:
        reasons = [f"{where}: {reason}" for where, reason in refused]
        raise CossError(f"no mCE with baseline {baseline!r}; {'; '.join(reasons) or NOTHING}")
    for (where, reason), models in refused.items():
        warnings.warn(f"no mCE on {where} for {', '.join(models)}: {reason}", stacklevel=2)
    return lines


def _baseline_for(m: SeedGroup, chosen: Chosen) -> Baseline:
    """A baseline from what the chosen model has of the same test set, suite and protocol."""
    for other in chosen.measurements:
        if (other.test_set, other.suite, other.protocol) == (m.test_set, m.suite, m.protocol):
            return baseline_of(chosen.label, other.records)
    protocol = f" under protocol ({m.protocol})" if m.protocol else ""
    raise CossError(f"the baseline {chosen.label} has no record of corruptions{protocol}")
