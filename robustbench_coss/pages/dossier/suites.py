"""What one suite found about some models: what was done, every metric, every single condition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from robustbench_coss.analysis.comparison import doubts_of
from robustbench_coss.analysis.configurations import SeedGroup, by_protocol
from robustbench_coss.analysis.curves import share_data
from robustbench_coss.analysis.labels import short_labels
from robustbench_coss.analysis.numbers import is_share, number
from robustbench_coss.figures.looks import panel_title
from robustbench_coss.pages.dossier.words import counted, duration, flat, pretty, several
from robustbench_coss.records.confidence import CONFIDENCES
from robustbench_coss.records.record import Cell, Record
from robustbench_coss.statistics.intervals import KINDS
from robustbench_coss.tables.cells import MISSING, TableCell, number_cell, number_text
from robustbench_coss.tables.leaderboard import number_cells


@dataclass(frozen=True)
class CheckLine:
    """A sanity check over all runs: its name, how many passed, and what it found."""

    name: str
    passed: int
    runs: int
    detail: str

    @property
    def failed(self) -> bool:
        """Whether it failed for a run."""
        return self.passed < self.runs


@dataclass(frozen=True)
class MetricNumber:
    """A metric of a model: the number, its standard deviation over seeds, images, and the kind of
    its interval, all as shown.
    """

    cell: TableCell
    sd: str = MISSING
    images: str = MISSING
    interval: str = MISSING


@dataclass(frozen=True)
class MetricLine:
    """A metric of all models, a number each; the key is "" for one that the suite does not name."""

    key: str
    heading: str
    percent: bool
    numbers: tuple[MetricNumber, ...]


@dataclass(frozen=True)
class Outcome:
    """A column of outcomes: its name, the words for it, and whether its mean is a share."""

    name: str
    title: str
    percent: bool


@dataclass(frozen=True)
class ConditionLine:
    """A condition with the means of its outcomes.

    Attributes:
        name: of the condition.
        row, level: the same in two parts, of a table with a row per kind and a column per level;
            the level is "" for a condition that has none.
        group: as recorded; "" is the reference.
        panel: the group in words.
        at: position on the suite's axis.
        problem: what makes outcomes doubtful; "" if nothing does.
        numbers: column of outcomes -> a cell per model.
        alone: columns whose number here is a metric by itself.
    """

    name: str
    row: str
    level: str
    group: str
    panel: str
    at: float
    problem: str
    numbers: dict[str, tuple[TableCell, ...]]
    alone: frozenset[str]


@dataclass(frozen=True)
class SuitePart:
    """All that is known from one suite under one protocol on one test set.

    Attributes:
        key: suite and protocol, "corruption" or "corruption-a".
        title: in words, with the protocol where there are several.
        does: what the suite does, in words; "" if it does not say.
        note: what sets this protocol apart from the suite's others; "" if nothing.
        facts: (name, value) of the measurement, from the records.
        settings: (dotted key, value) of the suite.
        config: the same as JSON.
        origins: (name, value) of images and software.
        doubts: (model, sentence): failed checks and doubtful outcomes.
        models: labels.
        labels: the same without what all share; `shared`: that.
        controls: those of them that are controls.
    """

    suite: str
    protocol: str
    key: str
    title: str
    does: str
    note: str
    facts: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, str], ...]
    config: str
    origins: tuple[tuple[str, str], ...]
    doubts: tuple[tuple[str, str], ...]
    checks: tuple[CheckLine, ...]
    models: tuple[str, ...]
    labels: tuple[str, ...]
    shared: str
    controls: frozenset[str]
    metrics: tuple[MetricLine, ...]
    outcomes: tuple[Outcome, ...]
    conditions: tuple[ConditionLine, ...]


def suite_parts(mine: Sequence[SeedGroup], table: pd.DataFrame) -> list[SuitePart]:
    """A part for every suite and protocol on one test set.

    Args:
        mine: what was measured on it, of one model or several.
        table: the lines of the long table about it; they say the order of the models.
    """
    order = list(dict.fromkeys(table["model"]))
    parts = []
    for here in by_protocol(mine):
        here.sort(key=lambda m: order.index(m.label))
        of = (table["suite"] == here[0].suite) & (table["protocol"] == here[0].protocol)
        parts.append(_part(here, table[of]))
    return parts


def _part(here: Sequence[SeedGroup], lines: pd.DataFrame) -> SuitePart:
    first, about = here[0], here[0].about
    models = [m.label for m in here]
    labels, shared = short_labels(m.configuration for m in here)
    records = [record for m in here for record in m.records]
    return SuitePart(
        suite=first.suite,
        protocol=first.protocol,
        key=first.key,
        title=suite_title(first),
        does=about.does,
        note=first.protocol_note,
        facts=tuple(_facts(records)),
        settings=tuple(
            (key.replace("_", " "), value) for key, value in flat(records[0].suite_config)
        ),
        config=pretty(records[0].suite_config),
        origins=tuple(_origins(records)),
        doubts=tuple(
            (m.label, f"{said[0].upper()}{said[1:]}.")
            for m in here
            if (said := doubts_of(m.records))
        ),
        checks=tuple(check_lines(records)),
        models=tuple(models),
        labels=tuple(labels.values()),
        shared=shared,
        controls=frozenset(m.label for m in here if m.control),
        metrics=(*_metrics(models, lines), *_shares(here, models)),
        outcomes=tuple(_outcomes(here)),
        conditions=tuple(_conditions(here)),
    )


def suite_title(m: SeedGroup) -> str:
    """A suite in words, with the protocol where there are several."""
    return m.heading(m.about.title or m.suite)


def check_lines(records: Sequence[Record]) -> list[CheckLine]:
    """The sanity checks of some runs; the detail is of the first that failed, else of the first."""
    found: dict[str, list[tuple[bool, str]]] = {}
    for record in records:
        for check in record.checks:
            found.setdefault(check.name, []).append((check.passed, check.detail))
    lines = []
    for name, results in found.items():
        shown = next((detail for passed, detail in results if not passed), results[0][1])
        lines.append(CheckLine(name, sum(p for p, _ in results), len(results), shown))
    return lines


def _facts(records: Sequence[Record]) -> list[tuple[str, str]]:
    first = records[0]
    images = f"{first.index.size:,} of {first.dataset['name']}"
    if first.dataset.get("limit") == first.index.size:  # fewer are all that there are
        images += ", a fixed random subset"
    if "image_list" in first.dataset:
        images += f", of those that {first.dataset['image_list']['file']} names"
    took = sum(cell.wall_time_s for record in records for cell in record.cells)
    return [
        ("Images", images),
        ("Conditions", f"{len(first.cells):,}"),
        ("Suite version", several(r.suite_version for r in records)),
        ("Seed of the draws", several(r.seed for r in records)),
        ("Device", several(r.device for r in records)),
        ("Precision", several(r.arithmetic() for r in records)),
        ("Time", f"{duration(took)} for {counted(len(records), 'run')}"),
    ]


def _origins(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Images, software and times; what differs between runs is listed."""
    versions = (", ".join(f"{k} {v}" for k, v in sorted(r.versions.items())) for r in records)
    said = [
        ("Fingerprint of the images", several(r.dataset["fingerprint"] for r in records)),
        ("Measured", several(sorted(r.created for r in records))),
        ("Versions", "; ".join(dict.fromkeys(versions))),
        ("Also in the record", ", ".join(sorted({key for r in records for key in r.extra}))),
    ]
    return [(name, value) for name, value in said if value]


def _metrics(models: list[str], lines: pd.DataFrame) -> list[MetricLine]:
    found = []
    for key, part in lines.groupby("metric", sort=False):
        heading, percent = str(part["heading"].iloc[0]), bool(part["percent"].iloc[0])
        cells = number_cells(models, part)
        found.append(MetricLine(str(key), heading, percent, _numbers(models, cells, part, percent)))
    return found


def _shares(here: Sequence[SeedGroup], models: list[str]) -> list[MetricLine]:
    """The smallest shares that keep most of the accuracy, where the suite's levels are shares."""
    data = share_data(here) if here[0].about.suffices else pd.DataFrame()
    found = []
    for group, part in data.groupby("group", sort=False) if not data.empty else ():
        of = {
            str(line["model"]): number_cell(line["value"], line["low"], line["high"], True)
            for line in part.to_dict("records")
        }
        cells = [of.get(model, TableCell(MISSING)) for model in models]
        heading = f"Smallest share, {group}"
        found.append(MetricLine("", heading, True, _numbers(models, cells, part, True)))
    return found


def _numbers(
    models: Sequence[str], cells: Sequence[TableCell], part: pd.DataFrame, percent: bool
) -> tuple[MetricNumber, ...]:
    """Cells with what the lines of a table say beside them."""
    of = {str(line["model"]): line for line in part.to_dict("records")}
    found = []
    for model, cell in zip(models, cells, strict=True):
        if (line := of.get(model)) is None:
            found.append(MetricNumber(cell))
            continue
        sd, images = float(line["sd"]), f"{int(line['n']):,}"
        spread = MISSING if math.isnan(sd) else number_text(sd, float(line["value"]), percent)
        found.append(MetricNumber(cell, spread, images, KINDS[str(line["interval"])]))
    return tuple(found)


def _outcomes(here: Sequence[SeedGroup]) -> list[Outcome]:
    record = here[0].records[0]
    names = dict.fromkeys(name for cell in record.cells for name in _shown(cell))
    return [Outcome(name, _said(record, name), is_share(record, name)) for name in names]


def _shown(cell: Cell) -> list[str]:
    """Columns whose mean says something; of codes of probabilities it does not."""
    return [name for name in cell.outcomes if name not in CONFIDENCES]


def _said(record: Record, column: str) -> str:
    """What a column of outcomes is called where a metric says it, else its name."""
    if column == "correct":
        return "Top-1"
    single = [k for k in record.metrics if k.column == column]
    return single[0].label if len(single) == 1 else column.replace("_", " ")


def _conditions(here: Sequence[SeedGroup]) -> list[ConditionLine]:
    """Every condition of the first model with each of its outcomes, for all models."""
    record, about = here[0].records[0], here[0].about
    of = [[{cell.condition: cell for cell in r.cells} for r in m.records] for m in here]
    lines = []
    for cell in record.cells:
        cells = [[runs.get(cell.condition) for runs in seeds] for seeds in of]
        found = [c for seeds in cells for c in seeds if c is not None]
        row, level = _row(cell)
        lines.append(
            ConditionLine(
                name=cell.condition,
                row=row,
                level=level,
                group=cell.group,
                panel=panel_title(about, cell) or "Reference",
                at=cell.level,
                problem=next((c.problem for c in found if c.problem), ""),
                numbers={
                    column: tuple(
                        _number(m, seeds, cell.condition, column)
                        for m, seeds in zip(here, cells, strict=True)
                    )
                    for column in _shown(cell)
                },
                alone=frozenset(
                    k.column for k in record.metrics if k.conditions == (cell.condition,)
                ),
            )
        )
    return lines


def _row(cell: Cell) -> tuple[str, str]:
    """A condition as what is done and how much of it: "fog@3" is ("fog", "@3")."""
    if cell.group:
        for what in (cell.kind, cell.group):
            if cell.condition.startswith(what) and cell.condition != what:
                return what, cell.condition.removeprefix(what)
    return cell.condition, ""


def _number(m: SeedGroup, cells: Sequence[Cell | None], condition: str, column: str) -> TableCell:
    present = [c for c in cells if c is not None and column in c.outcomes]
    if len(present) < len(cells):
        return TableCell(MISSING)
    found, percent = number(m.records, (condition,), column), is_share(m.records[0], column)
    doubtful = any(c.problem for c in present)
    return number_cell(found.value, found.low, found.high, percent, marked=doubtful)
