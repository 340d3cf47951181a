"""A report as one HTML page that is whole in itself; the same records give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from robustbench_coss import __version__
from robustbench_coss.analysis.calibration import for_pages
from robustbench_coss.analysis.configurations import TestSet, load_measurements
from robustbench_coss.analysis.numbers import table_of, with_metrics
from robustbench_coss.claims.verdicts import examine_measured
from robustbench_coss.figures.styles import styled
from robustbench_coss.figures.write import draw_figures
from robustbench_coss.files import slug
from robustbench_coss.pages.dossier.models import model_facts, model_part
from robustbench_coss.pages.dossier.suites import SuitePart, suite_parts
from robustbench_coss.pages.dossier.words import listed, several
from robustbench_coss.pages.html import render
from robustbench_coss.pages.report import summary
from robustbench_coss.pages.report.choice import Subject, choose
from robustbench_coss.pages.report.pairs import Pairs, find_pairs
from robustbench_coss.pages.report.recipes import recipes_apart
from robustbench_coss.pages.report.svg import inline
from robustbench_coss.pages.report.tables import full_tables, metric_tables, run_table, runs_of
from robustbench_coss.tables.cells import MARK, MISSING, Section, number_cell
from robustbench_coss.tables.claims import layout as claims_layout
from robustbench_coss.tables.leaderboard import layout

ACROSS = 6  # columns of headline numbers in one table
FULL_WIDTH = 7.0  # inches of figures: panels stand side by side across the page
ONLY_FULL = (
    "summary",
    "adversarial-attacks",
    "crop-agrees",
    "crop-cosine",
    "redundancy-cka",
    "redundancy-metrics",
    "rf-fields",
)
"""Figures that a short report does without."""

UNFIT = str.maketrans(".+", "__")  # for names that style sheets refer to


@dataclass(frozen=True)
class Picture:
    """A figure in the page: its SVG and what it shows."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Card:
    """One headline number: text and interval; for shares the positions of a bar, in %."""

    heading: str
    text: str
    interval: str
    bar: tuple[float, float, float] | None
    marked: bool


@dataclass(frozen=True)
class SetPart:
    """All that a report says about one test set.

    Attributes:
        sentences: the summary.
        cards: headline numbers of a single model.
        overview: headline numbers of several models.
        daggers: those of its notes that say what a dagger stands for, as the summary does.
        pictures: by what they are of, see `figures.looks.Drawing`.
    """

    key: str
    label: str
    chance: float
    sentences: tuple[str, ...]
    cards: tuple[Card, ...]
    overview: Section
    daggers: tuple[str, ...]
    pairs: Pairs
    suites: tuple[SuitePart, ...]
    pictures: dict[str, list[Picture]]


def make_page(results: Path, names: Sequence[str], full: bool = False) -> str:
    """The report on the models that names stand for, as HTML.

    Args:
        results: folder of the records.
        names: see `selection.find_model`; none for everything in the folder.
        full: with every condition, check, setting, command and recipe.

    Raises:
        CossError: there are no complete records, one is damaged, or a name is unknown or ambiguous.
    """
    subject = choose(with_metrics(load_measurements(results)), names)
    table = table_of(for_pages(subject.measurements))
    sets = [_set_part(subject, test_set, table, full) for test_set in subject.test_sets]
    labels = {test_set.label for test_set in subject.test_sets}
    examined = examine_measured(subject.everything)
    outcomes = [outcome for outcome in examined if outcome.test_set in labels]
    configurations, short = subject.configurations, subject.short
    records = [r for m in subject.measurements for r in m.records]
    facts, single = _facts(subject), len(configurations) == 1
    models = [model_part(label, subject.of(label)) for label in configurations]
    return render(
        "report.html",
        title=subject.title,
        facts=[*model_facts(subject.measurements), *facts[-3:]] if single else facts,
        single=single,
        seeds=max(len(m.records) for m in subject.measurements),
        doubts=summary.doubts(subject.measurements, short),
        sets=sets,
        several_sets=len(sets) > 1,
        claims=list(claims_layout(outcomes)),
        claims_said=summary.claims_sentence(outcomes) if len(sets) == 1 else "",
        tested=any(outcome.rows for outcome in outcomes),
        models=models,
        recipes=recipes_apart({short[model.label]: model.recipe for model in models}),
        full=full,
        runs_of=runs_of,
        metric_tables=metric_tables,
        full_tables=full_tables,
        run_table=run_table,
        intervals=sorted(set(table["interval"])),
        records=len(records),
        version=__version__,
        style=Markup(_style()),
    )


def _style() -> str:
    """The common look and that of reports; our own files, so nothing in them is escaped."""
    folder = files("robustbench_coss.pages").joinpath("templates")
    names = ("theme.css", "report.css")
    return "\n".join(folder.joinpath(name).read_text("utf-8") for name in names)


def _facts(subject: Subject) -> list[tuple[str, str]]:
    """(name, value) of the title block; the last three are about what was measured."""
    controls = [label for label in subject.configurations if subject.of(label)[0].control]
    counts = sorted({int(m.records[0].index.size) for m in subject.measurements})
    images = " to ".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1])))
    about = [dict(model_facts(subject.of(label))) for label in subject.configurations]
    runs = {r.model["checkpoint_sha256"] for m in subject.measurements for r in m.records}
    facts = [
        ("Models", f"{len(subject.configurations) - len(controls)}"),
        ("Controls", several(controls)),
        ("Runs", f"{len(runs)}"),
        *(
            (name, several(a.get(name) for a in about))
            for name in (
                "Method",
                "Architecture",
                "Parameters",
                "Field of a local",
                "Pretrained on",
            )
        ),
        ("Test set", listed([test_set.label for test_set in subject.test_sets])),
        ("Test images", images),
        ("Suites", several(m.suite for m in subject.measurements)),
    ]
    return [(name, value) for name, value in facts if value]


def _set_part(subject: Subject, test_set: TestSet, table: pd.DataFrame, full: bool) -> SetPart:
    mine = subject.on(test_set)
    lines = table[table["test_set"] == test_set.label].reset_index(drop=True)
    pairs = find_pairs(subject, test_set)
    parts = suite_parts(mine, lines)
    whole = full or len(subject.configurations) == 1  # a short report has no tables of a suite
    pictures: dict[str, list[Picture]] = {}
    with styled(inches=FULL_WIDTH):
        for drawing in draw_figures(mine, test_set):
            if drawing.name in ONLY_FULL and not full:
                continue
            prefix = f"{slug(test_set.slug)}-{slug(drawing.name)}".translate(UNFIT)
            alt = drawing.caption or f"{drawing.name} on {test_set.label}"
            picture = Picture(inline(drawing.draw(), prefix, alt), drawing.caption)
            place = "first" if drawing.name == "tradeoff" else drawing.of
            pictures.setdefault(place, []).append(picture)
    (overview,) = layout(lines, ACROSS)
    return SetPart(
        key=test_set.slug,
        label=test_set.label,
        chance=test_set.chance,
        sentences=tuple(summary.sentences(test_set, mine, subject.everything, lines, pairs)),
        cards=tuple(_cards(lines)),
        overview=overview,
        daggers=tuple(note for note in overview.notes if note.startswith(MARK)),
        pairs=pairs,
        suites=tuple(part for part in parts if whole or pictures.get(part.key)),
        pictures=pictures,
    )


def _cards(lines: pd.DataFrame) -> list[Card]:
    cards = []
    for line in lines[lines["headline"]].to_dict("records"):
        percent = bool(line["percent"])
        cell = number_cell(line["value"], line["low"], line["high"], percent)
        ends = [100 * float(line[key]) for key in ("low", "high", "value")]
        shown = percent and all(end == end for end in ends)
        low, high, value = ends
        cards.append(
            Card(
                heading=str(line["heading"]),
                text=cell.text + " %" * (percent and cell.text != MISSING),
                interval=cell.interval,
                bar=(low, max(high - low, 0.5), value) if shown else None,
                marked=bool(line["failed_checks"] or line["problems"]),
            )
        )
    return cards
