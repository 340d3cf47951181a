"""The leaderboard of one test set: rows, columns, numbers, and what tells the models apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from robustbench_coss.analysis.configurations import SeedGroup, TestSet
from robustbench_coss.files import sha256_of, slug
from robustbench_coss.pages.dossier.suites import suite_title
from robustbench_coss.pages.site.plots import View, views
from robustbench_coss.tables.cells import Block, TableCell, block
from robustbench_coss.tables.leaderboard import (
    count_columns,
    headline_columns,
    layout,
    model_columns,
    name_cells,
)

FILTERS = ("Method", "Architecture", "Pretrained on")
LONGEST_SLUG = 80  # of a page's file name, whose hash keeps it unique


@dataclass(frozen=True)
class Number:
    """A number of the leaderboard.

    Attributes:
        cell: as shown.
        value: for sorting; None where it was not measured.
        interval: its two ends, in the units of `value`; None where there is none.
        bar: left end, value and right end of the interval on the column's range, in [0, 1]; None
            where there is no interval.
    """

    cell: TableCell
    value: float | None
    interval: tuple[float, float] | None
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
        name, rest: the two parts of its label, see `labels.Configuration`.
        page: file name of its page in `models/`, without ".html".
        about: what the model is, by heading ("Method", …).
        seeds, images: as shown.
        numbers: one per heading.
        control: whether it has learnt nothing and stands apart.
        date: on which it was measured last.
    """

    model: str
    name: str
    rest: str
    page: str
    about: dict[str, str]
    seeds: str
    images: str
    numbers: tuple[Number, ...]
    control: bool
    date: str


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


def page_name(test_set: TestSet, model: str) -> str:
    """File name of a model's page, without ".html"."""
    mark = sha256_of([test_set.slug, model])[:8]
    return f"{slug(model)[:LONGEST_SLUG].rstrip('-.')}-{mark}"


def board_of(test_set: TestSet, here: Sequence[SeedGroup], part: pd.DataFrame) -> Board:
    (section,) = layout(part)
    columns = headline_columns(part)
    models = list(dict.fromkeys(map(str, part["model"])))
    about = block([name_cells(models, part), *model_columns(models, part)])
    seeds, images = (cells for _, cells in count_columns(models, part))
    shown = section.blocks[0]
    first = len(shown.headings) - len(columns)
    headings = tuple(_heading(lines) for lines in columns)
    numbers = [
        _numbers([row[first + i] for row in shown.rows], [row[0].text for row in shown.rows], lines)
        for i, lines in enumerate(columns)
    ]
    known = {m.label: m.configuration for m in here}
    rows = []
    for i, (cells, described) in enumerate(zip(shown.rows, about.rows, strict=True)):
        model = cells[0].text
        rows.append(
            Row(
                model,
                known[model].name,
                known[model].setting,
                page_name(test_set, model),
                {h: c.text for h, c in zip(about.headings, described, strict=True)},
                seeds[i].text,
                images[i].text,
                tuple(column[i] for column in numbers),
                cells[0].apart,
                max(r.created for m in here if m.label == model for r in m.records)[:10],
            )
        )
    values = {key: sorted({row.about[key] for row in rows}) for key in FILTERS}
    titles = {(m.suite, m.protocol): suite_title(m) for m in here}
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
        tuple((titles[key], count) for key, count in groups.items()),
        0 if headings and headings[0].suite == "clean" else None,
        {key: tuple(found) for key, found in values.items() if len(found) > 1},
        tuple(rows),
        about,
        100 * test_set.chance,
        tuple(views(here)),
    )


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
        interval = bar = None
        if line is not None and cell.interval:
            low, high = interval = float(line["low"]), float(line["high"])
            low, middle, high = (round((end - left) / span, 4) for end in (low, value, high))
            bar = (low, middle, high)
        numbers.append(Number(cell, value if math.isfinite(value) else None, interval, bar))
    return numbers
