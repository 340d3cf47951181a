"""Curves of a suite over its levels, a panel per group of conditions."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from robustbench_coss.analysis.configurations import (
    TestSet,
)
from robustbench_coss.figures.looks import (
    LineStyle,
    PanelStyle,
    levels_of,
    spread_ticks,
    tick_text,
    with_reference,
)
from robustbench_coss.figures.styles import enlarged, panels_across, width_inches
from robustbench_coss.records.about import SuiteAbout
from robustbench_coss.records.record import Axis
from robustbench_coss.statistics.intervals import KINDS
from robustbench_coss.statistics.sufficient_share import KEPT

MOST_BANDS = 3
"""Models whose intervals are drawn as bands; those of more hide each other and become whiskers."""


def new_figure(height: float) -> Figure:
    """A figure as wide as the style says; its height in inches is that with a paper's text."""
    figure = Figure(figsize=(width_inches(), height * enlarged()), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_curves(
    data: pd.DataFrame,
    shares: pd.DataFrame,
    axis: Axis,
    styles: Sequence[PanelStyle],
    about: SuiteAbout,
    test_set: TestSet,
    pens: dict[str, LineStyle],
    note: str,
) -> Figure:
    """A panel per style in two columns with a common y axis; below them the shares, if any.

    Shares that are all 1 are said in the note instead.
    """
    if not shares.empty and (shares["low"] >= 1).all():  # a row of dots at one end says no more
        shares = shares.iloc[:0]
        note = f"{note}\nnone keeps {100 * KEPT:.0f} % of its clean top-1 with a smaller share"
    columns = min(panels_across(), len(styles))
    rows = math.ceil(len(styles) / columns)
    drawn = [model for model in pens if model in set(data["model"])]
    band = len(drawn) <= MOST_BANDS
    heights = [1.6 if columns == 1 and panels_across() < 3 else 1.25] * rows
    if not shares.empty:
        heights.append(0.1 * len(drawn) + 0.25)
    figure = new_figure(sum(heights) + (0.6 if columns == 1 else 0.3))
    panels = figure.subplots(
        len(heights), columns, sharey=True, squeeze=False, height_ratios=heights
    )
    if not shares.empty:
        grid = panels[0, 0].get_gridspec()
        for panel in panels[-1]:
            panel.remove()
        panels = panels[:-1]
        strip = figure.add_subplot(grid[-1, :])
    scale = 100.0 if axis.percent else 1.0
    for i, (panel, style) in enumerate(zip(panels.flat, styles, strict=False)):
        for model in drawn:
            pen, mine = pens[model], data[data["model"] == model]
            own = with_reference(mine, style.group)
            draw_line(panel, own, pen, scale, thin=False, band=band)
            for control, into in about.controls.items():
                if style.group in into and control in set(mine["group"]):
                    points = with_reference(mine, control)
                    draw_line(panel, points, pen, scale, thin=True, band=False)
            reference = mine[mine["group"] == ""]
            if not shares.empty and not reference.empty:
                level = scale * KEPT * float(reference["value"].iloc[0])
                panel.axhline(level, color=pen.colour, linestyle=(0, (4, 3)), linewidth=0.5)
        if axis.column == "correct":
            chance_line(panel, test_set, "h")
        _scale_x(panel, levels_of(data, style.group), about.scale)
        panel.set_title(plain(style.title))
        if i + columns >= len(styles) or styles[i + columns].x_label != style.x_label:
            panel.set_xlabel(style.x_label)
        panel.grid(axis="y", linewidth=0.3, color="0.9")
        panel.set_axisbelow(True)
    for panel in panels.flat[len(styles) :]:
        panel.set_axis_off()
    for row in panels:
        row[0].set_ylabel(axis.column_label)
    if axis.percent:
        panels[0, 0].set_ylim(
            0, min(100.0, 1.08 * scale * float(data["high"].fillna(data["value"]).max()))
        )
    handles = [handle(pens[model]) for model in drawn]
    if axis.column == "correct":
        handles.append(chance_handle(test_set))
    if not shares.empty:
        _draw_shares(strip, shares, {model: pens[model] for model in drawn}, panels[0, 0])
        label = f"{100 * KEPT:.0f} % of clean"
        handles.append(
            Line2D([], [], color="0.4", linestyle=(0, (4, 3)), linewidth=0.5, label=label)
        )
    if set(about.controls) & set(data["group"]):
        handles.append(Line2D([], [], color="0.4", linewidth=0.5, label=about.control))
    legend(figure, handles, noted(note, data))
    return figure


def _draw_shares(
    strip: Axes, shares: pd.DataFrame, pens: dict[str, LineStyle], above: Axes
) -> None:
    """Shares with their intervals, one row per model, along the x axis of the panel above."""
    low_end, high_end = sorted(above.get_xlim())
    values = []
    for i, (model, pen) in enumerate(pens.items()):
        mine = shares[shares["model"] == model]
        values.append(", ".join(f"{100 * value:.3g} %" for value in mine["value"]))
        for _, line in mine.iterrows():
            ends = [max(line["low"], low_end), min(line["high"], high_end)]
            strip.plot(ends, [i, i], color=pen.colour, linewidth=0.8)
            strip.plot([line["value"]], [i], color=pen.colour, marker=pen.marker, mfc=pen.face)
    strip.set_xscale(above.get_xscale())
    strip.set_xlim(above.get_xlim())
    strip.set_ylim(len(pens) - 0.4, -0.6)
    strip.xaxis.set_minor_locator(NullLocator())
    strip.set_xticks(above.get_xticks(), [])
    strip.yaxis.tick_right()
    strip.set_yticks(range(len(pens)), values)
    strip.tick_params(axis="y", length=0)
    strip.spines["left"].set_visible(False)
    strip.grid(axis="x", linewidth=0.3, color="0.9")
    strip.set_axisbelow(True)
    strip.set_title(f"smallest share that keeps {100 * KEPT:.0f} % of clean top-1, and interval")


def draw_line(
    panel: Axes, points: pd.DataFrame, pen: LineStyle, scale: float, *, thin: bool, band: bool
) -> None:
    """A curve with its intervals as a band or as whiskers; a thin one without."""
    x, y = points["level"].to_numpy(), scale * points["value"].to_numpy()
    low, high = scale * points["low"].to_numpy(), scale * points["high"].to_numpy()
    if thin:
        panel.plot(x, y, color=pen.colour, linewidth=0.5)
        return
    if band:
        panel.fill_between(x, low, high, color=pen.colour, alpha=0.18, linewidth=0)
    else:
        panel.vlines(x, low, high, color=pen.colour, linewidth=0.5)
    panel.plot(x, y, color=pen.colour, marker=pen.marker, linestyle=pen.dash, mfc=pen.face)
    for level, values in zip(x, seed_values(points, scale), strict=True):
        panel.plot([level] * len(values), values, **SEED_DOTS, color=pen.colour)


SEED_DOTS: dict[str, Any] = {"marker": ".", "markersize": 1.6, "linestyle": "none", "alpha": 0.7}
"""How single seeds are drawn beside their mean, where there are few."""


def seed_values(lines: pd.DataFrame, scale: float) -> list[list[float]]:
    """Of each line the values of its seeds, if they are shown one by one."""
    texts = lines["by_seed"] if "by_seed" in lines else [""] * len(lines)
    return [[scale * float(value) for value in str(text).split()] for text in texts]


def _scale_x(panel: Axes, levels: list[float], scale: str) -> None:
    positive = [level for level in levels if level > 0]
    if scale == "linear" or not positive:
        if all(float(level).is_integer() for level in levels):
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        return
    if scale == "log":
        panel.set_xscale("log")
        panel.invert_xaxis()  # towards the harder end, as on every other axis
    else:
        panel.set_xscale("symlog", base=2, linthresh=positive[0], linscale=1)
        panel.set_xlim(-0.2 * positive[0], 1.15 * positive[-1])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(spread_ticks(levels, scale))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: tick_text(x)))


def chance_line(panel: Axes, test_set: TestSet, direction: str) -> None:
    draw = panel.axhline if direction == "h" else panel.axvline
    draw(100 * test_set.chance, color="0.4", linestyle=":", linewidth=0.7, zorder=1)


def chance_handle(test_set: TestSet) -> Line2D:
    label = f"chance ({100 * test_set.chance:.3g} %)"
    return Line2D([], [], color="0.4", linestyle=":", linewidth=0.7, label=label)


def handle(pen: LineStyle, line: bool = True) -> Line2D:
    handle = Line2D([], [], color=pen.colour, marker=pen.marker, label=plain(pen.label))
    handle.set_markerfacecolor(pen.face)
    handle.set_linestyle(pen.dash if line else "none")
    return handle


def plain(text: str) -> str:
    """Text of others as it is: "$" starts no formula, a leading "_" hides no legend entry."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def basis(data: pd.DataFrame) -> str:
    """What the numbers drawn rest on: seeds, test images, kinds of intervals if there are any."""
    seeds, images = data["seeds"].astype(int), data["n"].astype(int)
    kinds = [kind for kind in dict.fromkeys(data.get("interval", ())) if kind]
    over_seeds = f"{KINDS['t']} over seeds" if "t" in kinds else ""
    names = " and ".join(KINDS.get(kind, kind) for kind in kinds if kind != "t")
    over = " and ".join(filter(None, [over_seeds, names and f"{names} over test images"]))
    parts = [counted(seeds, "seed"), counted(images, "test image"), over and f"95 %: {over}"]
    return "; ".join(filter(None, parts))


def noted(note: str, data: pd.DataFrame) -> str:
    """What is said above a figure: a note, if any, and below it the basis of its numbers."""
    return f"{note}\n{basis(data)}".strip()


def counted(counts: pd.Series[int], noun: str) -> str:
    """How many there are, as a number or a range ("3 to 5 seeds")."""
    low, high = int(counts.min()), int(counts.max())
    count = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"{count} {noun}{'s' if high > 1 else ''}"


def legend(figure: Figure, handles: list[Line2D], note: str) -> None:
    """A legend above the panels, no wider than the figure, which grows by its height."""
    size = float(matplotlib.rcParams["legend.fontsize"])
    room = 72 * figure.get_figwidth() - 2 * size  # points
    beside = 4.2 * size  # of an entry: its line and the gaps around its words
    for each in handles:
        each.set_label(_wrapped(str(each.get_label()), room / 2 - beside, size))
    title = "\n".join(_wrapped(plain(line), room, size) for line in note.splitlines())
    widest = beside + max(_points(str(each.get_label()), size) for each in handles)
    rows = math.ceil(len(handles) / max(1, int(room / widest)))
    columns = math.ceil(len(handles) / rows)
    deep = [str(each.get_label()).count("\n") + 1 for each in handles]
    lines = sum(max(deep[row::rows]) for row in range(rows)) + len(title.splitlines())
    figure.set_figheight(figure.get_figheight() + 0.12 * lines * enlarged())
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=columns,
        title=title or None,
        title_fontsize=size,
        columnspacing=1.2,
        handletextpad=0.5,
        labelspacing=0.25,
        borderaxespad=0.5,
        borderpad=0,
    )


def _points(text: str, size: float) -> float:
    """Width of the longest line in points."""
    font = FontProperties(size=size)
    renderer = RendererAgg(1, 1, dpi=72)  # type: ignore[no-untyped-call]
    measure = renderer.get_text_width_height_descent
    widths = [measure(line, font, False)[0] for line in text.splitlines()]  # type: ignore[no-untyped-call]
    return max(widths, default=0.0)


def _wrapped(text: str, room: float, size: float) -> str:
    """Text in lines of at most `room` points."""
    letters = len(text)
    while letters > 1 and _points(found := textwrap.fill(text, letters), size) > room:
        letters = min(letters - 1, int(letters * room / _points(found, size)) + 1)
    return textwrap.fill(text, letters) if letters else text
