"""Plots of pages as SVG: frames and curves in pixels, from the data that figures are drawn from.

Everything is drawn here and nothing in the browser: a model's page then needs no script, and the
script of the comparison page only lays the paths of the models chosen into one frame. So a frame
(axes, ticks, chance) is the same for every model of a test set, and pages can be compared by eye.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.ticker import MaxNLocator

from robustbench_coss.analysis.configurations import SeedGroup, by_protocol
from robustbench_coss.analysis.curves import curve_data
from robustbench_coss.figures.looks import (
    PanelStyle,
    axis_positions,
    levels_of,
    panel_styles,
    spread_ticks,
    tick_text,
    with_reference,
)
from robustbench_coss.figures.pens import FAMILIES
from robustbench_coss.pages.dossier.suites import suite_title
from robustbench_coss.records.about import SuiteAbout
from robustbench_coss.records.record import Axis
from robustbench_coss.tables.cells import TableCell, number_cell

WIDTH, HEIGHT = 320, 210
LEFT, RIGHT, TOP, BOTTOM = 40, 308, 10, 168
PLOT_AT_ONCE = 4
MARKER = "*"


@dataclass(frozen=True)
class Stroke:
    """How one of the models on a plot is drawn.

    Attributes:
        colour: of figures.
        dash: as `stroke-dasharray`; "" for a solid line.
        marker: a path relative to the point.
    """

    colour: str
    dash: str
    marker: str


# Circle, square, diamond, triangle.
_MARKERS = (
    "m-3.4 0a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0-6.8 0z",
    "m-3.1-3.1h6.2v6.2h-6.2z",
    "m0-4.3l4.3 4.3l-4.3 4.3l-4.3-4.3z",
    "m0-4.1l4 7h-8z",
)
_DASHES = ("", "7.4 3.2", "12.8 3.2 2 3.2", "2 2")
STROKES = tuple(
    Stroke(colour, dash, marker)
    for (colour, _), dash, marker in zip(FAMILIES.values(), _DASHES, _MARKERS, strict=False)
)


@dataclass(frozen=True)
class Tick:
    """A tick: where, in px, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Point:
    """A point of a curve in the units of the axes (shares in %), NaN where there is no interval.

    Attributes:
        cell: as tables spell the numbers.
    """

    level: float
    value: float
    low: float
    high: float
    cell: TableCell


@dataclass(frozen=True)
class Curve:
    """A model's curve in a panel, with its paths in pixels, each "" where there is none.

    Attributes:
        thin: whether it is a control, which has a line alone.
        band: around the interval.
        marks: with `MARKER` in place of a marker, which says the model.
    """

    thin: bool
    points: tuple[Point, ...]
    band: str
    line: str
    marks: str


@dataclass(frozen=True)
class Panel:
    """One frame.

    Attributes:
        title, x_label: in words.
        x: level -> px.
        x_ticks: from left to right.
    """

    title: str
    x_label: str
    x: dict[float, float]
    x_ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class View:
    """All panels of one quantity of one suite, with the curves of every model of the test set.

    Attributes:
        suite, protocol: what was measured; `title`: the same in words.
        label: the y label.
        y_low, y_high: ends of the y axis, in the units of the values.
        chance: y of guessing in px; None where it says nothing.
        control: what thin curves are; "" if there are none.
        curves: model -> for each panel the curves in it.
    """

    suite: str
    protocol: str
    title: str
    label: str
    y_low: float
    y_high: float
    y_ticks: tuple[Tick, ...]
    chance: float | None
    control: str
    panels: tuple[Panel, ...]
    curves: dict[str, tuple[tuple[Curve, ...], ...]]


def views(measurements: Sequence[SeedGroup]) -> list[View]:
    """Everything that can be drawn as curves of one test set's measurements."""
    found = []
    for mine in by_protocol(measurements):
        for axis in (mine[0].records[0].axis, *mine[0].about.also):
            data = curve_data(mine, axis)
            if not data.empty:
                found.append(_view(mine, axis, data))
    return found


def _view(measurements: Sequence[SeedGroup], axis: Axis, data: pd.DataFrame) -> View:
    m, about = measurements[0], measurements[0].about
    styles = panel_styles(measurements, axis, data["group"])
    panels = tuple(_panel(style, about.scale, levels_of(data, style.group)) for style in styles)
    found = {
        str(model): [_lines(mine, style.group, about, axis) for style in styles]
        for model, mine in data.groupby("model", sort=False)
    }
    lines = [line for mine in found.values() for panel in mine for line in panel]
    low, high = _y_ends([p for _, points in lines for p in points], axis.percent)
    curves = {
        model: tuple(
            tuple(_draw(thin, points, panel, (low, high)) for thin, points in drawn)
            for panel, drawn in zip(panels, mine, strict=True)
        )
        for model, mine in found.items()
    }
    guess = 100 * m.test_set.chance
    return View(
        m.suite,
        m.protocol,
        suite_title(m),
        axis.column_label,
        low,
        high,
        tuple(Tick(y_px(v, low, high), axis_text(v)) for v in nice(low, high)),
        y_px(guess, low, high) if axis.column == "correct" and low <= guess <= high else None,
        about.control if any(thin for thin, _ in lines) else "",
        panels,
        curves,
    )


def _panel(style: PanelStyle, scale: str, levels: list[float]) -> Panel:
    position = axis_positions(levels, scale)
    first, last = min(position.values()), max(position.values())
    span = (last - first) or 1.0
    inset = 8  # markers at the ends stay inside

    def px(where: float) -> float:
        return round(LEFT + inset + (where - first) / span * (RIGHT - LEFT - 2 * inset), 1)

    if scale == "linear" or not any(level > 0 for level in levels):
        whole = all(float(level).is_integer() for level in levels)
        marked = [v for v in nice(first, last, whole=whole) if first <= v <= last]
        ticks = tuple(Tick(px(v), axis_text(v)) for v in marked)
    else:
        ticks = tuple(Tick(px(position[v]), tick_text(v)) for v in spread_ticks(levels, scale))
    x = {level: px(where) for level, where in position.items()}
    return Panel(style.title, style.x_label, x, ticks)


def _lines(
    mine: pd.DataFrame, group: str, about: SuiteAbout, axis: Axis
) -> list[tuple[bool, tuple[Point, ...]]]:
    """(thin, points) of a model's curve of a group after the controls drawn into its panel."""
    present = set(mine["group"])
    thin = [c for c, into in about.controls.items() if group in into and c in present]
    own = [group] if group in present else []
    return [
        (name != group, _points(with_reference(mine, name), axis.percent)) for name in [*thin, *own]
    ]


def _points(lines: pd.DataFrame, percent: bool) -> tuple[Point, ...]:
    scale = 100.0 if percent else 1.0
    scaled = ((lines[key] * scale).tolist() for key in ("value", "low", "high"))
    columns = (lines[key].tolist() for key in ("value", "low", "high"))
    cells = [number_cell(v, low, high, percent) for v, low, high in zip(*columns, strict=True)]
    return tuple(map(Point, lines["level"].tolist(), *scaled, cells))


def _y_ends(points: Sequence[Point], percent: bool) -> tuple[float, float]:
    values = [v for p in points for v in (p.value, p.low, p.high) if math.isfinite(v)]
    if percent:
        return 0.0, min(100.0, 1.08 * max(values, default=100.0)) or 100.0
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.08 * ((high - low) or 1.0)
    return low - margin, high + margin


def nice(low: float, high: float, whole: bool = False) -> list[float]:
    """A few round numbers within a range."""
    found = MaxNLocator(5, integer=whole).tick_values(low, high)
    return [float(v) for v in found if low <= v <= high]


def axis_text(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")


def y_px(value: float, low: float, high: float) -> float:
    """Where a value stands on a y axis with these ends."""
    return round(BOTTOM - (value - low) / (high - low) * (BOTTOM - TOP), 1)


def _draw(
    thin: bool, points: tuple[Point, ...], panel: Panel, y_ends: tuple[float, float]
) -> Curve:
    at = [(panel.x[p.level], p) for p in points if p.level in panel.x and math.isfinite(p.value)]

    def path(places: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{x:g} {y_px(y, *y_ends):g}" for x, y in places)

    if not at:
        return Curve(thin, points, "", "", "")
    line = path([(x, p.value) for x, p in at])
    if thin:
        return Curve(thin, points, "", line, "")
    upper = [(x, p.high) for x, p in at if math.isfinite(p.low)]
    lower = [(x, p.low) for x, p in at if math.isfinite(p.low)]
    band = path(upper + lower[::-1]) + "Z" if len(upper) > 1 else ""
    marks = "".join(f"M{x:g} {y_px(p.value, *y_ends):g}{MARKER}" for x, p in at)
    return Curve(thin, points, band, line, marks)
