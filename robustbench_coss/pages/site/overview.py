"""A test set at a glance: robustness against clean accuracy, and errors under each corruption."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from robustbench_coss.analysis.configurations import SeedGroup
from robustbench_coss.analysis.corruption_heat import Heat, heats
from robustbench_coss.figures.looks import LineStyle
from robustbench_coss.figures.overview import pareto_front
from robustbench_coss.figures.pens import pens_of
from robustbench_coss.pages.site.board import Board, Number
from robustbench_coss.pages.site.plots import Tick, axis_text, nice
from robustbench_coss.tables.cells import MISSING, percent_text

SUITES = ("corruption", "adversarial", "shift")
WIDTH, HEIGHT = 420, 320
LEFT, RIGHT, TOP, BOTTOM = 44, 410, 12, 270
LIGHTEST, DEEPEST = 0.04, 0.8  # share of the accent in a cell of least and of greatest error
DEEP = 0.6  # above which light text does not stand out from it on a dark page


_MARKS = {
    "o": "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "s": "m-3.5-3.5h7v7h-7z",
    "D": "m0-4.8l4.8 4.8l-4.8 4.8l-4.8-4.8z",
    "v": "m-4.4-3.4h8.8l-4.4 7.6z",
    "^": "m-4.4 3.6h8.8l-4.4-7.6z",
    "P": "m-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "X": "m0-2l2.6-2.6l2 2l-2.6 2.6l2.6 2.6l-2 2l-2.6-2.6l-2.6 2.6l-2-2l2.6-2.6l-2.6-2.6l2-2z",
    "*": "m0-5.4l1.5 3.4l3.7 .4l-2.8 2.5l.8 3.6l-3.2-1.9l-3.2 1.9l.8-3.6l-2.8-2.5l3.7-.4z",
    "x": "m-3.5-3.5l7 7m0-7l-7 7",
    "+": "m-4.5 0h9m-4.5-4.5v9",
    "1": "m0 0v4.5m0-4.5l-4-3m4 3l4-3",
}


@dataclass(frozen=True)
class Look:
    """How a model is drawn: as in figures, but for black and greys, which follow the theme."""

    colour: str
    marker: str
    filled: bool

    @classmethod
    def of(cls, pen: LineStyle) -> Look:
        colour = "var(--faint)" if pen.control else pen.colour
        return cls("var(--text)" if colour == "#000000" else colour, pen.marker, pen.filled)

    def at(self, x: float, y: float) -> str:
        """The path of its marker."""
        return f"M{x:g} {y:g}{_MARKS[self.marker]}"


REST = Look("var(--faint)", "o", True)  # of models that no colour is left for


@dataclass(frozen=True)
class Dot:
    """A model in a scatter plot.

    Attributes:
        page: of the model.
        title: its name and both numbers.
        whiskers: path of both intervals; "" of models that no colour is left for.
        mark: path of its marker.
    """

    page: str
    title: str
    look: Look
    control: bool
    whiskers: str
    mark: str


@dataclass(frozen=True)
class Scatter:
    """A headline share against the clean one.

    Attributes:
        heading: of the share.
        front: path of the Pareto front.
    """

    heading: str
    x_heading: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    front: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class Key:
    """An entry of the legend."""

    label: str
    page: str
    look: Look
    mark: str


@dataclass(frozen=True)
class HeatRow:
    """A model's errors: (text, share of the accent behind it, whether that is `DEEP`)."""

    page: str
    name: str
    rest: str
    control: bool
    cells: tuple[tuple[str, float, bool], ...]
    mean: str
    mce: str


@dataclass(frozen=True)
class HeatMap:
    """Errors by corruption.

    Attributes:
        protocol: as it is told from others; "" where there is one.
        families: (family, number of its corruptions).
        kinds: corruptions in words.
        baseline: what mCE is divided by; "" if there is no mCE.
    """

    protocol: str
    families: tuple[tuple[str, int], ...]
    kinds: tuple[str, ...]
    rows: tuple[HeatRow, ...]
    baseline: str


@dataclass(frozen=True)
class Overview:
    """What stands beside a leaderboard."""

    scatters: tuple[Scatter, ...]
    keys: tuple[Key, ...]
    heats: tuple[HeatMap, ...]

    @property
    def unnamed(self) -> bool:
        """Whether there are more models than colours."""
        return any(not dot.whiskers for plot in self.scatters for dot in plot.dots)


def overview(board: Board, measurements: Sequence[SeedGroup]) -> Overview:
    """The plots of a leaderboard; none where nothing but clean accuracy was measured.

    Args:
        measurements: on the leaderboard's test set.
    """
    known = {m.label: m.configuration for m in measurements}
    pens, _ = pens_of([known[row.model] for row in board.rows])
    looks = {label: Look.of(pen) for label, pen in pens.items()}
    columns = {h.suite: i for i, h in reversed(list(enumerate(board.headings))) if h.percent}
    shown = [columns[suite] for suite in SUITES if suite in columns and "clean" in columns]
    scatters = [_scatter(board, columns["clean"], column, looks) for column in shown]
    keys = [
        Key(pens[row.model].label, row.page, looks[row.model], looks[row.model].at(22, 7))
        for row in board.rows
        if row.model in pens
    ]
    place = {row.model: i for i, row in enumerate(board.rows)}
    ranked = sorted(measurements, key=lambda m: place[m.label])
    return Overview(
        tuple(filter(None, scatters)),
        tuple(keys) if any(scatters) else (),
        tuple(_heat_map(board, heat) for heat in heats(ranked)),
    )


def _scatter(board: Board, x: int, y: int, looks: Mapping[str, Look]) -> Scatter | None:
    """One headline share against another, both in %; None if no model has both."""
    rows = [r for r in board.rows if None not in (r.numbers[x].value, r.numbers[y].value)]
    if not rows:
        return None
    across, along = (
        _Scale([_ends(row.numbers[k]) for row in rows], *frame)
        for k, frame in ((x, (LEFT, RIGHT)), (y, (BOTTOM, TOP)))
    )
    dots = []
    for row in rows:
        (x_low, x_at, x_high), (y_low, y_at, y_high) = _ends(row.numbers[x]), _ends(row.numbers[y])
        at = across.px(x_at), along.px(y_at)
        whiskers = (
            f"M{across.px(x_low):g} {at[1]:g}H{across.px(x_high):g}"
            f"M{at[0]:g} {along.px(y_low):g}V{along.px(y_high):g}"
        )
        look = looks.get(row.model, REST)
        said = (
            f"{board.headings[k].text} {row.numbers[k].cell.text} % {row.numbers[k].cell.interval}"
            for k in (x, y)
        )
        title = f"{row.model}: {', '.join(map(str.rstrip, said))}"
        drawn = whiskers if row.model in looks else ""
        dots.append(Dot(row.page, title, look, row.control, drawn, look.at(*at)))
    best = [(_ends(r.numbers[x])[1], _ends(r.numbers[y])[1]) for r in rows if not r.control]
    return Scatter(
        board.headings[y].text,
        board.headings[x].text,
        across.ticks(),
        along.ticks(),
        _front([(across.px(a), along.px(b)) for a, b in pareto_front(best)]),
        tuple(reversed(dots)),  # the best lie on top
    )


def _ends(number: Number) -> tuple[float, float, float]:
    """Low end, value and high end in %."""
    value = 100 * (math.nan if number.value is None else number.value)
    low, high = (100 * end for end in number.interval) if number.interval else (value, value)
    return low, value, high


class _Scale:
    """Pixels along one axis, for values that shall all be inside."""

    def __init__(
        self, ends: Sequence[tuple[float, float, float]], first: float, last: float
    ) -> None:
        low, high = min(e[0] for e in ends), max(e[2] for e in ends)
        margin = 0.06 * ((high - low) or 1.0)
        self.low, self.high = max(0.0, low - margin), min(100.0, high + margin)
        self.first, self.last = first, last

    def px(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return round(self.first + share * (self.last - self.first), 1)

    def ticks(self) -> tuple[Tick, ...]:
        return tuple(Tick(self.px(v), axis_text(v)) for v in nice(self.low, self.high))


def _front(points: Sequence[tuple[float, float]]) -> str:
    """The line below which models are beaten in both, from edge to edge."""
    if not points:
        return ""
    steps = "".join(f"V{y:g}H{x:g}" for x, y in points)
    return f"M{LEFT} {points[0][1]:g}{steps}V{BOTTOM}"


def _heat_map(board: Board, heat: Heat) -> HeatMap:
    place = {row.model: row for row in board.rows}
    low, high = float(np.nanmin(heat.errors)), float(np.nanmax(heat.errors))
    rows = []
    for model, errors, mean, mce in zip(
        heat.models, heat.errors, heat.standard, heat.mce, strict=True
    ):
        row = place[model]
        cells = []
        for error in errors:
            share = (error - low) / ((high - low) or 1.0)
            depth = 0.0 if math.isnan(error) else LIGHTEST + share * (DEEPEST - LIGHTEST)
            cells.append((_percent(error), round(depth, 2), depth > DEEP))
        rows.append(
            HeatRow(
                row.page,
                row.name,
                row.rest,
                row.control,
                tuple(cells),
                _percent(mean),
                _percent(mce),
            )
        )
    return HeatMap(
        heat.protocol,
        tuple((family.capitalize(), len(list(g))) for family, g in groupby(heat.families)),
        tuple(kind.replace("_", " ") for kind in heat.kinds),
        tuple(rows),
        heat.baseline,
    )


def _percent(share: float) -> str:
    return MISSING if math.isnan(share) else percent_text(share)
