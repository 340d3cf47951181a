"""A suite's part of a report: what was done, headline numbers, and every single condition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from robustbench_coss.analysis.comparison import doubts_of
from robustbench_coss.analysis.configurations import SeedGroup
from robustbench_coss.analysis.curves import legend_labels
from robustbench_coss.analysis.numbers import is_share, number
from robustbench_coss.figures.looks import panel_title
from robustbench_coss.pages.report.words import counted, duration, flat, several
from robustbench_coss.records.record import Cell, Record
from robustbench_coss.tables.cells import MISSING, Block, TableCell, block, number_text
from robustbench_coss.tables.leaderboard import number_cells

ACROSS = 5  # number columns in one table: more do not fit a printed page
LEVELS = 8  # the same for columns of levels, whose intervals stand below the values
TALL = 3  # models up to which a table has a row per metric rather than per model


@dataclass(frozen=True)
class CheckLine:
    """A sanity check over all runs: its name, how many passed, and what it found."""

    name: str
    passed: int
    runs: int
    detail: str


@dataclass(frozen=True)
class Group:
    """Rows of a full table under one heading: condition and a cell per model."""

    title: str
    rows: tuple[tuple[str, tuple[TableCell, ...]], ...]


@dataclass(frozen=True)
class Full:
    """One outcome under every condition.

    Attributes:
        title: what the outcome is.
        conditions: how many there are.
        models: headings of the columns, of a few models.
        groups: their rows.
        blocks: instead, for a single model, a column per level ("@1", "@2", …).
    """

    title: str
    conditions: int
    models: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class SuitePart:
    """All that a report says about one suite under one protocol on one test set.

    Attributes:
        key: suite and protocol, "corruption" or "corruption-a".
        facts: (name, value) of the protocol, from the records.
        doubts: failed checks and doubtful outcomes.
        shared: what all models of the tables have in common.
        models: how many there are.
    """

    key: str
    name: str
    about: str
    facts: tuple[tuple[str, str], ...]
    doubts: tuple[str, ...]
    checks: tuple[CheckLine, ...]
    shared: str
    models: int
    tables: tuple[Block, ...]
    full: tuple[Full, ...]


def suite_parts(mine: Sequence[SeedGroup], table: pd.DataFrame) -> list[SuitePart]:
    """A part for every suite and protocol on one test set.

    Args:
        mine: what was measured on it.
        table: the lines of the long table about it; they say the order of the models.
    """
    order = list(dict.fromkeys(table["model"]))
    parts = []
    for suite, protocol in dict.fromkeys((m.suite, m.protocol) for m in mine):
        here = [m for m in mine if (m.suite, m.protocol) == (suite, protocol)]
        here.sort(key=lambda m: order.index(m.configuration))
        lines = table[(table["suite"] == suite) & (table["protocol"] == protocol)]
        models = [m.configuration for m in here]
        labels, shared = legend_labels(models)
        records = [record for m in here for record in m.records]
        parts.append(
            SuitePart(
                key=f"{suite}-{protocol}" if protocol else suite,
                name=(here[0].about.title or suite) + f" ({protocol})" * bool(protocol),
                about=here[0].about.does,
                facts=tuple(_facts(here[0], records)),
                doubts=tuple(
                    f"{m.configuration}: {said}." for m in here if (said := doubts_of(m.records))
                ),
                checks=tuple(_checks(records)),
                shared=shared,
                models=len(models),
                tables=tuple(_tables(models, labels, lines)),
                full=tuple(_full(here, labels)),
            )
        )
    return parts


def _facts(m: SeedGroup, records: Sequence[Record]) -> list[tuple[str, str]]:
    first = records[0]
    images = f"{first.index.size:,}"
    if first.dataset.get("limit") is not None:
        images += ", a fixed random subset"
    facts = [
        ("images", images),
        ("conditions", f"{len(first.cells):,}"),
        ("suite version", str(first.suite_version)),
        ("seed of the draws", several(r.seed for r in records)),
    ]
    if m.protocol_note:
        facts.append(("apart from other protocols", m.protocol_note))
    facts += [(key.replace("_", " "), value) for key, value in flat(first.suite_config)]
    took = sum(cell.wall_time_s for record in records for cell in record.cells)
    facts.append(("device", several(r.device for r in records)))
    facts.append(("time", f"{duration(took)} for {counted(len(records), 'run')}"))
    return facts


def _checks(records: Sequence[Record]) -> list[CheckLine]:
    found: dict[str, list[tuple[bool, str]]] = {}
    for record in records:
        for check in record.checks:
            found.setdefault(check.name, []).append((check.passed, check.detail))
    lines = []
    for name, results in found.items():
        shown = next((detail for passed, detail in results if not passed), results[0][1])
        lines.append(CheckLine(name, sum(p for p, _ in results), len(results), shown))
    return lines


def _tables(models: list[str], labels: list[str], lines: pd.DataFrame) -> list[Block]:
    """All metrics with intervals: a row each for few models, else a column each."""
    columns = [
        (str(part["heading"].iloc[0]), number_cells(models, part))
        for _, part in lines.groupby("metric", sort=False)
    ]
    if not columns:
        return []
    names = [TableCell(label) for label in labels]
    if len(models) <= TALL:
        turned = zip(*(cells for _, cells in columns), strict=True)
        metrics = [TableCell(heading) for heading, _ in columns]
        sides = [(name.text, list(cells)) for name, cells in zip(names, turned, strict=True)]
        return [block([("Metric", metrics), *sides])]
    return [
        block([("Model", names), *columns[start : start + ACROSS]])
        for start in range(0, len(columns), ACROSS)
    ]


def _full(here: Sequence[SeedGroup], labels: Sequence[str]) -> list[Full]:
    """Every outcome column under every condition that has it, `ACROSS` models at a time; but those
    that the table of metrics shows already."""
    record = here[0].records[0]
    about = here[0].about
    made = []
    for column in dict.fromkeys(name for cell in record.cells for name in cell.outcomes):
        percent = is_share(record, column)
        cells = [cell for cell in record.cells if column in cell.outcomes]
        shown = {k.conditions for k in record.metrics if k.column == column}
        if len(cells) == 1 and (cells[0].condition,) in shown:
            continue
        title = _outcome(record, column) + " (%)" * percent
        if len(here) == 1:
            matrices = tuple(_matrices(here[0], cells, column, percent))
            made.append(Full(title, len(cells), blocks=matrices))
            continue
        for start in range(0, len(here), ACROSS):
            some = here[start : start + ACROSS]
            groups = [
                Group(
                    panel_title(about, members[0]) or "Reference",
                    tuple(
                        (c.condition, tuple(_cell(m, c.condition, column, percent) for m in some))
                        for c in members
                    ),
                )
                for members in _by_group(cells)
            ]
            names = tuple(labels[start : start + ACROSS])
            made.append(Full(title, len(cells), names, tuple(groups)))
    return made


def _by_group(cells: Sequence[Cell]) -> list[list[Cell]]:
    return [list(members) for _, members in groupby(cells, key=lambda cell: cell.group)]


def _matrices(m: SeedGroup, cells: Sequence[Cell], column: str, percent: bool) -> Iterator[Block]:
    """Conditions NAME@LEVEL as a row per name and a column per level, like levels together."""
    levels: dict[str, list[str]] = {}
    for cell in cells:
        name, at, level = cell.condition.rpartition("@")
        levels.setdefault(name if at else cell.condition, []).append(at + level if at else "")
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, several_levels in levels.items():
        alike.setdefault(tuple(several_levels), []).append(name)
    for heads, names in alike.items():
        for start in range(0, len(heads), LEVELS):
            some = heads[start : start + LEVELS]
            columns = [
                (head or "Value", [_cell(m, name + head, column, percent) for name in names])
                for head in some
            ]
            yield block([("Condition", [TableCell(name) for name in names]), *columns])


def _outcome(record: Record, column: str) -> str:
    """What an outcome column is called where a metric or the axis says it, else its name."""
    if column == "correct":
        return "Top-1"
    single = [k for k in record.metrics if k.column == column]
    return single[0].label if len(single) == 1 else column.replace("_", " ")


def _cell(m: SeedGroup, condition: str, column: str, percent: bool) -> TableCell:
    found = [next((c for c in r.cells if c.condition == condition), None) for r in m.records]
    cells = [c for c in found if c is not None and column in c.outcomes]
    if len(cells) < len(m.records):
        return TableCell(MISSING)
    doubtful = any(cell.problem for cell in cells)
    result = number(m.records, (condition,), column)
    if result.value != result.value:
        return TableCell(MISSING, marked=doubtful)
    value, low, high = (
        number_text(x, result.value, percent) for x in (result.value, result.low, result.high)
    )
    known = result.low == result.low
    return TableCell(value, f"[{low}, {high}]" if known else "", marked=doubtful)
