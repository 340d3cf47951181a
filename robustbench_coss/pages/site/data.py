"""What the pages show, as plain values: tables of headline numbers and, per model, all the rest.

Numbers, marks and notes are those of `leaderboard` and `figures`; nothing is measured or averaged
here in a way of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from robustbench_coss.analysis.configurations import SeedGroup, TestSet, load_measurements
from robustbench_coss.analysis.curves import share_data
from robustbench_coss.analysis.numbers import (
    failed_checks,
    is_share,
    number,
    problems,
    table_of,
)
from robustbench_coss.files import sha256_of, slug
from robustbench_coss.pages.site.plots import STROKES, Drawn, Panel, View, drawn, views
from robustbench_coss.records.commands import commands_of, recipe_of
from robustbench_coss.records.record import Cell, Record, record_path
from robustbench_coss.records.training import training_of
from robustbench_coss.tables.cells import Block, TableCell, number_text
from robustbench_coss.tables.leaderboard import headline_columns, layout

ALL = 10**6  # columns side by side: the page scrolls
FILTERS = ("Method", "Architecture", "Pretrained on")
OTHERS = 7  # models behind a model's own curve
KEYS = ["model", "suite", "protocol"]
LONGEST_SLUG = 80  # of a page's file name, whose hash keeps it unique


@dataclass(frozen=True)
class Number:
    """A number of the leaderboard.

    Attributes:
        cell: as shown.
        value: for sorting; None where it was not measured.
        bar: left end, value and right end of the interval on the column's range, in [0, 1]; None
            where there is no interval.
    """

    cell: TableCell
    value: float | None
    bar: tuple[float, float, float] | None


@dataclass(frozen=True)
class Heading:
    """A number column of the leaderboard: its words, and which end is the better one."""

    text: str
    suite: str
    protocol: str
    better: str
    percent: bool


@dataclass(frozen=True)
class Row:
    """A model of the leaderboard.

    Attributes:
        model: the configuration's label.
        name, rest: the label before and after its first " · ".
        page: file name of its page in `models/`, without ".html".
        about: what the model is, by heading ("Method", …).
        seeds, images: as shown.
        numbers: one per heading.
    """

    model: str
    name: str
    rest: str
    page: str
    about: dict[str, str]
    seeds: str
    images: str
    numbers: tuple[Number, ...]


@dataclass(frozen=True)
class Board:
    """The leaderboard of one test set.

    Attributes:
        title, slug: of the test set, in words and for file names.
        caption, notes: as above and below the table in the other formats.
        groups: (suite, number of its columns) in the order of the columns.
        ranked: index of the column that rows are sorted by; None if no model has it.
        filters: heading -> values, for what tells the models apart.
        about: what the models are, as a table.
        chance: top-1 of guessing, in %.
        views: what can be compared as curves.
    """

    title: str
    slug: str
    caption: str
    notes: tuple[str, ...]
    headings: tuple[Heading, ...]
    groups: tuple[tuple[str, int], ...]
    ranked: int | None
    filters: dict[str, tuple[str, ...]]
    rows: tuple[Row, ...]
    about: Block
    chance: float
    views: tuple[View, ...]


@dataclass(frozen=True)
class Table:
    """Headings and cells of a table on a model's page."""

    headings: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]


@dataclass(frozen=True)
class Plot:
    """A view with one model's curves, and those of others behind them.

    Attributes:
        panels: each with the model's curves, controls first, and the lines of the others.
    """

    view: View
    panels: tuple[tuple[Panel, tuple[Drawn, ...], tuple[str, ...]], ...]


@dataclass(frozen=True)
class Standing:
    """A headline number of a model among those of all models.

    Attributes:
        others: values of the other models on the column's range, in [0, 1].
    """

    heading: Heading
    number: Number
    others: tuple[float, ...]


@dataclass(frozen=True)
class CheckLine:
    """A sanity check over the seeds: how many passed, and what it said."""

    name: str
    passed: int
    of: int
    detail: str

    @property
    def failed(self) -> bool:
        """Whether it failed for a seed."""
        return self.passed < self.of


@dataclass(frozen=True)
class SuitePart:
    """What one suite found about a model under one protocol.

    Attributes:
        title: name, with the protocol where there are several.
        doubts: failed checks and doubtful outcomes in words.
        metrics: every metric with its interval.
        plots: the model's curves.
        cells: every condition.
        checks: sanity checks.
        settings: of the suite, as JSON.
        facts: versions, devices and times.
    """

    title: str
    suite: str
    protocol: str
    note: str
    doubts: tuple[str, ...]
    metrics: Table
    plots: tuple[Plot, ...]
    cells: Table
    checks: tuple[CheckLine, ...]
    settings: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Run:
    """One seed: what it is called, its weights, and the commands that repeat it."""

    name: str
    seed: str
    sha256: str
    commands: tuple[str, ...]
    records: tuple[str, ...]


@dataclass(frozen=True)
class ModelPage:
    """All that was measured of one model on one test set.

    Attributes:
        row: of the leaderboard.
        standings: its headline numbers.
        elsewhere: (test set, page) of the same weights measured on other test sets.
        facts: what it is.
        recipe: as YAML; "" if this tool did not train it.
        metadata: the model's entry in the record, as JSON.
    """

    row: Row
    board: Board
    standings: tuple[Standing, ...]
    elsewhere: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    runs: tuple[Run, ...]
    recipe: str
    suites: tuple[SuitePart, ...]
    metadata: str


@dataclass(frozen=True)
class Site:
    """All pages."""

    boards: tuple[Board, ...]
    models: tuple[ModelPage, ...]


def load_site(results: Path) -> Site:
    """Everything that the records of a results folder say, arranged as pages.

    Raises:
        CossError: there are no complete records, or one is damaged.
    """
    measurements = load_measurements(results)
    table = table_of(measurements)
    boards, models = [], []
    pages_of: dict[str, list[tuple[str, str]]] = {}
    sets = list(dict.fromkeys(m.test_set for m in measurements))
    by_set = {s: [m for m in measurements if m.test_set == s] for s in sets}
    for test_set, here in by_set.items():
        board = _board(test_set, here, table[table["test_set"] == test_set.label])
        boards.append(board)
        for row in board.rows:
            for sha256 in _weights(here, row.model):
                pages_of.setdefault(sha256, []).append((board.title, row.page))
    for board, here in zip(boards, by_set.values(), strict=True):
        of: dict[str, list[SeedGroup]] = {}
        for m in here:
            of.setdefault(m.configuration, []).append(m)
        lines = dict(iter(table[table["test_set"] == board.title].groupby(KEYS, sort=False)))
        for row in board.rows:
            same = [page for sha in _weights(here, row.model) for page in pages_of[sha]]
            elsewhere = dict.fromkeys(page for page in same if page[1] != row.page)
            models.append(_model_page(board, row, tuple(elsewhere), of[row.model], lines))
    return Site(tuple(boards), tuple(models))


def _weights(measurements: Sequence[SeedGroup], model: str) -> list[str]:
    """Hashes of the checkpoints of a model, by seed."""
    records = [r for m in measurements if m.configuration == model for r in m.records]
    return list(dict.fromkeys(r.model["checkpoint_sha256"] for r in records))


def page_name(test_set: TestSet, model: str) -> str:
    """File name of a model's page, without ".html"."""
    mark = sha256_of([test_set.slug, model])[:8]
    return f"{slug(model)[:LONGEST_SLUG].rstrip('-.')}-{mark}"


def _board(test_set: TestSet, here: Sequence[SeedGroup], part: pd.DataFrame) -> Board:
    (section,) = layout(part, ALL)
    columns = headline_columns(part)
    shown, about = section.blocks[0], section.blocks[-1]
    first = len(shown.headings) - len(columns)
    headings = tuple(_heading(lines) for lines in columns)
    numbers = [
        _numbers([row[first + i] for row in shown.rows], [row[0].text for row in shown.rows], lines)
        for i, lines in enumerate(columns)
    ]
    rows = []
    for i, (cells, described) in enumerate(zip(shown.rows, about.rows, strict=True)):
        model = cells[0].text
        name, _, rest = model.partition(" · ")
        rows.append(
            Row(
                model,
                name,
                rest,
                page_name(test_set, model),
                {h: c.text for h, c in zip(about.headings, described, strict=True)},
                cells[1].text,
                cells[2].text,
                tuple(column[i] for column in numbers),
            )
        )
    values = {key: sorted({row.about[key] for row in rows}) for key in FILTERS}
    groups: dict[tuple[str, str], int] = {}
    for heading in headings:
        key = (heading.suite, heading.protocol)
        groups[key] = groups.get(key, 0) + 1
    return Board(
        section.title,
        test_set.slug,
        section.caption,
        section.notes,
        headings,
        tuple((_suite_title(*key), count) for key, count in groups.items()),
        0 if headings and headings[0].suite == "clean" else None,
        {key: tuple(found) for key, found in values.items() if len(found) > 1},
        tuple(rows),
        about,
        100 * test_set.chance,
        tuple(views(here)),
    )


def _suite_title(suite: str, protocol: str) -> str:
    return suite + (f" ({protocol})" if protocol else "")


def _heading(lines: pd.DataFrame) -> Heading:
    line = lines.iloc[0]
    heading, suite, protocol, better = (
        str(line[key]) for key in ("heading", "suite", "protocol", "better")
    )
    return Heading(heading, suite, protocol, better, bool(line["percent"]))


def _numbers(
    cells: Sequence[TableCell], models: Sequence[str], lines: pd.DataFrame
) -> list[Number]:
    """A column: what is shown with what lies behind it."""
    found = {str(line["model"]): line for line in lines.to_dict("records")}
    ends = [float(line[k]) for line in found.values() for k in ("low", "value", "high")]
    ends = [end for end in ends if math.isfinite(end)]
    left, span = min(ends, default=0.0), (max(ends, default=1.0) - min(ends, default=0.0)) or 1.0
    numbers = []
    for cell, model in zip(cells, models, strict=True):
        line = found.get(model)
        value = math.nan if line is None else float(line["value"])
        bar = None
        if line is not None and cell.interval:
            low, middle, high = (
                round((float(line[k]) - left) / span, 4) for k in ("low", "value", "high")
            )
            bar = (low, middle, high)
        numbers.append(Number(cell, value if math.isfinite(value) else None, bar))
    return numbers


def _model_page(
    board: Board,
    row: Row,
    elsewhere: tuple[tuple[str, str], ...],
    measurements: Sequence[SeedGroup],
    lines: dict[Any, pd.DataFrame],
) -> ModelPage:
    first = measurements[0].records[0]
    facts = [(key, text) for key, text in row.about.items() if key != "Model"]
    facts.append(("Seeds", row.seeds))
    if encoder := first.model.get("encoder"):
        facts.append(("Encoder measured", str(encoder)))
    if (first.model.get("probe") or {}).get("own_head"):
        facts.append(("Classifier", "the model's own head"))
    runs: dict[str, list[Record]] = {}
    for m in measurements:
        for record in m.records:
            runs.setdefault(record.model["checkpoint_sha256"], []).append(record)
    return ModelPage(
        row,
        board,
        _standings(board, row),
        elsewhere,
        tuple(facts),
        tuple(sorted((_run(sha, records) for sha, records in runs.items()), key=_run_order)),
        recipe_of(first),
        tuple(_suite_part(m, board, lines) for m in measurements),
        _pretty(first.model),
    )


def _standings(board: Board, row: Row) -> tuple[Standing, ...]:
    found = []
    for i, heading in enumerate(board.headings):
        bars = [r.numbers[i].bar for r in board.rows if r is not row]
        others = {bar[1] for bar in bars if bar is not None}
        found.append(Standing(heading, row.numbers[i], tuple(sorted(others))))
    return tuple(found)


def _run_order(run: Run) -> tuple[int, str, str]:
    return (len(run.seed), run.seed, run.name)


def _run(sha256: str, records: Sequence[Record]) -> Run:
    model = records[0].model
    seed = training_of(model).get("seed")
    paths = [
        record_path(PurePosixPath(), model["name"], sha256, r.dataset["name"], r.suite)  # type: ignore[arg-type]
        for r in records
    ]
    return Run(
        str(model["name"]),
        "–" if seed is None else str(seed),
        sha256,
        tuple(commands_of(records)),
        tuple(path.as_posix() for path in paths),
    )


def _suite_part(m: SeedGroup, board: Board, lines: dict[Any, pd.DataFrame]) -> SuitePart:
    mine = [v for v in board.views if (v.suite, v.protocol) == (m.suite, m.protocol)]
    ranked = [row.model for row in board.rows]
    doubts = []
    if failed := failed_checks(m.records):
        doubts.append(f"Failed sanity check {failed}.")
    if doubtful := problems(m.records):
        doubts.append(f"Doubtful outcomes under {doubtful}.")
    return SuitePart(
        _suite_title(m.suite, m.protocol),
        m.suite,
        m.protocol,
        m.protocol_note,
        tuple(doubts),
        _metrics(m, lines[m.configuration, m.suite, m.protocol]),
        tuple(_plot(v, m.configuration, ranked) for v in mine if m.configuration in v.curves),
        _cells(m),
        _checks(m.records),
        _pretty(m.records[0].suite_config),
        _facts(m.records),
    )


def _plot(view: View, model: str, ranked: Sequence[str]) -> Plot:
    others = [name for name in ranked if name != model and name in view.curves][:OTHERS]
    panels = []
    for i, panel in enumerate(view.panels):
        own = tuple(drawn(c, panel, view, STROKES[0].marker) for c in view.curves[model][i])
        behind = [c for name in others for c in view.curves[name][i] if not c.thin]
        panels.append((panel, own, tuple(drawn(c, panel, view, "").line for c in behind)))
    return Plot(view, tuple(panels))


def _metrics(m: SeedGroup, lines: pd.DataFrame) -> Table:
    rows = [
        _metric_row(str(x["metric"]), str(x["heading"]), bool(x["percent"]), x)
        for x in lines.to_dict("records")
    ]
    if m.about.suffices:
        rows += [
            _metric_row("", f"Smallest share, {x['group']}", True, x)
            for x in share_data([m]).to_dict("records")
        ]
    return Table(("Metric", "Value", "s.d. over seeds", "Images", "Interval", "Key"), tuple(rows))


_INTERVALS = {"t": "Student's t", "wilson": "Wilson", "bootstrap": "bootstrap"}


def _metric_row(
    key: str, heading: str, percent: bool, line: dict[Any, Any]
) -> tuple[TableCell, ...]:
    value, sd = float(line["value"]), float(line["sd"])
    spread = "–" if math.isnan(sd) else number_text(sd, value, percent)
    return (
        TableCell(heading + (", %" if percent else "")),
        _cell(value, float(line["low"]), float(line["high"]), percent),
        TableCell(spread),
        TableCell(f"{int(line['n']):,}"),
        TableCell(_INTERVALS[str(line["interval"])]),
        TableCell(key),
    )


def _cell(value: float, low: float, high: float, percent: bool, marked: bool = False) -> TableCell:
    if math.isnan(value):
        return TableCell("–", marked=marked)
    text = number_text(value, value, percent)
    ends = (number_text(end, value, percent) for end in (low, high))
    return TableCell(text, "" if math.isnan(low) else "[{}, {}]".format(*ends), marked=marked)


def _cells(m: SeedGroup) -> Table:
    """Every condition with each of its outcome columns, averaged over images and seeds."""
    record = m.records[0]
    columns = list(dict.fromkeys(name for cell in record.cells for name in cell.outcomes))
    percent = {name: is_share(record, name) for name in columns}
    doubtful: dict[str, str] = {}
    for r in m.records:
        for cell in r.cells:
            if cell.problem:
                doubtful.setdefault(cell.condition, cell.problem)
    rows = []
    for cell in record.cells:
        problem = doubtful.get(cell.condition, "")
        numbers = [_outcome(m, cell, name, percent[name], bool(problem)) for name in columns]
        named = [TableCell(cell.condition), TableCell(cell.group or "reference")]
        level = TableCell(f"{cell.level:g}")
        rows.append((*named, level, *numbers, *([TableCell(problem)] if doubtful else [])))
    headings = [f"{name}, %" if percent[name] else name for name in columns]
    last = ("Problem",) if doubtful else ()
    return Table(("Condition", "Group", "Level", *headings, *last), tuple(rows))


def _outcome(m: SeedGroup, cell: Cell, column: str, percent: bool, marked: bool) -> TableCell:
    if column not in cell.outcomes:
        return TableCell("–")
    result = number(m.records, (cell.condition,), column)
    return _cell(result.value, result.low, result.high, percent, marked)


def _checks(records: Sequence[Record]) -> tuple[CheckLine, ...]:
    found: dict[str, list[tuple[bool, str]]] = {}
    for record in records:
        for check in record.checks:
            found.setdefault(check.name, []).append((check.passed, check.detail))
    return tuple(
        CheckLine(
            name,
            sum(passed for passed, _ in results),
            len(results),
            next((detail for passed, detail in results if not passed), results[0][1]),
        )
        for name, results in found.items()
    )


def _facts(records: Sequence[Record]) -> tuple[tuple[str, str], ...]:
    """Where the numbers come from; what differs between seeds is listed."""
    first = records[0]
    seconds = sum(cell.wall_time_s for r in records for cell in r.cells)
    said = {
        "Suite version": {str(r.suite_version) for r in records},
        "Test images": {f"{r.index.size:,} of {r.dataset['name']}" for r in records},
        "Fingerprint of the images": {str(r.dataset["fingerprint"]) for r in records},
        "Seed of the draws": {str(r.seed) for r in records},
        "Device": {r.device for r in records},
        "Measured": {r.created for r in records},
        "Measuring took": {f"{seconds:,.0f} s, all seeds together"},
        "Versions": {", ".join(f"{k} {v}" for k, v in sorted(r.versions.items())) for r in records},
    }
    if first.extra:
        said["Also in the record"] = {", ".join(sorted(first.extra))}
    return tuple((key, "; ".join(sorted(values))) for key, values in said.items())


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
