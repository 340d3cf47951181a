"""Single numbers as dots with intervals: the headline summary and metrics apart from curves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from robustbench_coss.analysis.configurations import (
    TestSet,
)
from robustbench_coss.figures.curves import (
    SEED_DOTS,
    chance_handle,
    chance_line,
    handle,
    legend,
    new_figure,
    noted,
    plain,
    seed_values,
)
from robustbench_coss.figures.looks import (
    LineStyle,
)
from robustbench_coss.figures.styles import panels_across


def _dots(
    panel: Axes, y: Sequence[float], lines: pd.DataFrame, pen: LineStyle, scale: float
) -> None:
    value = scale * lines["value"].to_numpy()
    reach = np.abs(scale * lines[["low", "high"]].to_numpy().T - value)
    panel.errorbar(
        value,
        y,
        xerr=np.nan_to_num(reach),
        color=pen.colour,
        marker=pen.marker,
        mfc=pen.face,
        linestyle="none",
        elinewidth=0.8,
    )
    for place, values in zip(y, seed_values(lines, scale), strict=True):
        panel.plot(values, [place] * len(values), **SEED_DOTS, color=pen.colour)


Row = tuple[str, str, str]
"""Suite, heading and metric of numbers that may stand beside each other."""


def rows_of(data: pd.DataFrame) -> list[Row]:
    """Of each line the row that it belongs to."""
    return list(zip(data["suite"], data["heading"], data["metric"], strict=True))


def row_names(data: pd.DataFrame) -> dict[Row, str]:
    """Rows in the order met, and their headings with as much more as tells them apart."""
    rows = dict.fromkeys(rows_of(data))
    clashes = Counter(heading for _, heading, _ in rows)
    same = Counter((suite, heading) for suite, heading, _ in rows)
    return {
        (suite, heading, metric): heading
        + f", {suite}" * (clashes[heading] > 1)
        + f" {metric}" * (same[suite, heading] > 1)
        for suite, heading, metric in rows
    }


def rows_of_dots(
    data: pd.DataFrame, pens: dict[str, LineStyle], room: float
) -> tuple[Figure, Axes]:
    """A figure with a row per metric of a suite and protocol and in it a dot per model, in %.

    Args:
        data: with columns suite, metric and heading, which says the protocol.
        pens: of the models to draw.
        room: inches of a dot.
    """
    names = row_names(data)
    figure = new_figure((room * len(pens) + 0.1) * len(names) + 0.5)
    panel = figure.subplots()
    for i, (model, pen) in enumerate(pens.items()):
        mine = data[data["model"] == model]
        shift = 0.7 * ((i + 0.5) / len(pens) - 0.5)
        _dots(panel, [list(names).index(row) + shift for row in rows_of(mine)], mine, pen, 100)
    panel.set_yticks(range(len(names)), [plain(name) for name in names.values()])
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.tick_params(axis="y", length=0)
    for row in range(1, len(names)):
        panel.axhline(row - 0.5, color="0.85", linewidth=0.4)
    return figure, panel


def draw_summary(
    data: pd.DataFrame, test_set: TestSet, pens: dict[str, LineStyle], note: str
) -> Figure:
    """Headline shares as rows of dots, one dot per model."""
    figure, panel = rows_of_dots(data, pens, 0.065)
    chance_line(panel, test_set, "v")
    panel.set_xlim(0, 100)
    panel.set_xlabel("share of images (%)")
    handles = [handle(pen, line=False) for pen in pens.values()]
    legend(figure, [*handles, chance_handle(test_set)], noted(note, data))
    return figure


def draw_metrics(data: pd.DataFrame, pens: dict[str, LineStyle], note: str) -> Figure:
    """One small panel per metric, each with its own x axis, one bar per model."""
    metrics = list(dict.fromkeys(data["metric"]))
    columns = min(panels_across(), len(metrics))
    rows = math.ceil(len(metrics) / columns)
    models = [model for model in pens if model in set(data["model"])]
    figure = new_figure(rows * (0.12 * len(models) + 0.45) + 0.15)
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel, metric in zip(panels.flat, metrics, strict=False):
        lines = data[data["metric"] == metric].set_index("model")
        percent = bool(lines["percent"].iloc[0])
        scale = 100.0 if percent else 1.0
        for i, model in enumerate(models):
            if model in lines.index:
                value = scale * float(lines.loc[model, "value"])
                panel.barh(i, value, height=0.7, color=pens[model].colour, alpha=0.35)
                _dots(panel, [i], lines.loc[[model]], pens[model], scale)
        panel.axvline(0, color="black", linewidth=0.5)
        panel.set_title(plain(str(lines["heading"].iloc[0])) + (" (%)" if percent else ""))
        panel.set_ylim(len(models) - 0.4, -0.6)
        panel.set_yticks([])
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.spines["left"].set_visible(False)
    for panel in panels.flat[len(metrics) :]:
        panel.set_axis_off()
    handles = [handle(pens[model], line=False) for model in models]
    legend(figure, handles, noted(note, data))
    return figure
