"""A dossier as tables that fit a printed page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from robustbench_coss.pages.dossier.models import ModelPart, Run
from robustbench_coss.pages.dossier.suites import ConditionLine, SuitePart
from robustbench_coss.tables.cells import MISSING, Block, TableCell, block

ACROSS = 5  # number columns in one table: more do not fit a printed page
LEVELS = 8  # the same for columns of levels, whose intervals stand below the values
TALL = 3  # models up to which a table has a row per metric rather than per model


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


def run_table(runs: Sequence[Run]) -> Block:
    """A row per run: name, seed, probe accuracies, checkpoint."""
    columns = {
        "Run": [run.name for run in runs],
        "Seed": [run.seed for run in runs],
        "Probe, train (%)": [run.train for run in runs],
        "validation (%)": [run.validation for run in runs],
        "SHA-256 of the weights": [run.sha256 for run in runs],
    }
    return block([(heading, list(map(TableCell, texts))) for heading, texts in columns.items()])


SHORT_HASH = 8  # characters of a SHA-256 that tell weights apart


def runs_of(models: Sequence[ModelPart]) -> Block:
    """A row per model: its runs, seeds and weights."""
    headings = ("Model", "Run", "Seeds", "Weights (SHA-256)")
    columns: list[list[TableCell]] = [[] for _ in headings]
    for model in models:
        hashes = ", ".join(run.sha256[:SHORT_HASH] for run in model.runs)
        texts = (model.label, model.runs[0].name, f"{len(model.runs)}", hashes)
        for column, text in zip(columns, texts, strict=True):
            column.append(TableCell(text))
    return block(list(zip(headings, columns, strict=True)))


def metric_tables(part: SuitePart) -> list[Block]:
    """All metrics with intervals: a row each for few models, else a column each."""
    metrics = [line for line in part.metrics if line.key]
    if not metrics:
        return []
    apart = [model in part.controls for model in part.models]
    names = [
        TableCell(label, apart=control) for label, control in zip(part.labels, apart, strict=True)
    ]
    cells = [[number.cell for number in line.numbers] for line in metrics]
    if len(names) <= TALL:
        headings = [TableCell(line.heading) for line in metrics]
        turned = zip(*cells, strict=True)
        sides = [(name.text, list(own)) for name, own in zip(names, turned, strict=True)]
        return [block([("Metric", headings), *sides])]
    columns = [(line.heading, own) for line, own in zip(metrics, cells, strict=True)]
    return [
        block([("Model", names), *columns[start : start + ACROSS]])
        for start in range(0, len(columns), ACROSS)
    ]


def full_tables(part: SuitePart) -> list[Full]:
    """Every outcome under every condition that has it, `ACROSS` models at a time; but those that
    the table of metrics shows already."""
    made = []
    for outcome in part.outcomes:
        lines = [line for line in part.conditions if outcome.name in line.numbers]
        if len(lines) == 1 and outcome.name in lines[0].alone:
            continue
        title = outcome.title + " (%)" * outcome.percent
        if len(part.models) == 1:
            made.append(Full(title, len(lines), blocks=tuple(_matrices(lines, outcome.name))))
            continue
        for start in range(0, len(part.models), ACROSS):
            some = slice(start, start + ACROSS)
            groups = tuple(
                Group(panel, tuple((line.name, line.numbers[outcome.name][some]) for line in under))
                for panel, under in groupby(lines, key=lambda line: line.panel)
            )
            made.append(Full(title, len(lines), part.labels[some], groups))
    return made


def _matrices(lines: Sequence[ConditionLine], column: str) -> Iterator[Block]:
    """A row per kind of conditions and a column per level, like levels together."""
    rows: dict[str, dict[str, TableCell]] = {}
    for line in lines:
        rows.setdefault(line.row, {})[line.level] = line.numbers[column][0]
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, cells in rows.items():
        alike.setdefault(tuple(cells), []).append(name)
    for levels, names in alike.items():
        for start in range(0, len(levels), LEVELS):
            columns = [
                (level or "Value", [rows[name].get(level, TableCell(MISSING)) for name in names])
                for level in levels[start : start + LEVELS]
            ]
            yield block([("Condition", [TableCell(name) for name in names]), *columns])
