"""Models at a glance: what CO- changes, and what robustness goes with clean accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from robustbench_coss.figures.bars import Row, row_names, rows_of, rows_of_dots
from robustbench_coss.figures.curves import handle, legend, new_figure, noted, plain
from robustbench_coss.figures.looks import LineStyle
from robustbench_coss.figures.styles import panels_across

CLEAN = "clean_top1"


def draw_gains(data: pd.DataFrame, pens: dict[str, LineStyle], note: str) -> Figure:
    """CO- minus base in points, a row per headline metric and a dot per pair; see `gain_data`."""
    drawn = {model: pen for model, pen in pens.items() if model in set(data["model"])}
    figure, panel = rows_of_dots(data, drawn, 0.075)
    panel.axvline(0, color="black", linewidth=0.5)
    panel.set_xlabel("CO- minus base method (points)")
    kinds = data["interval"].where(data["interval"] == "t", "image by image")
    handles = [handle(pen, line=False) for pen in drawn.values()]
    legend(figure, handles, noted(note, data.assign(interval=kinds)))
    return figure


def _clean(data: pd.DataFrame) -> pd.DataFrame:
    """Clean top-1 by model, under the first protocol where there are several."""
    clean = data[(data["suite"] == "clean") & (data["metric"] == CLEAN)]
    return clean[clean["heading"].isin(clean["heading"][:1])].set_index("model")


def beside_clean(data: pd.DataFrame) -> dict[Row, str]:
    """Headline shares that a model was measured for beside its clean top-1, with their names: what
    may be compared, as a column of the leaderboard."""
    others = data[(data["suite"] != "clean") & data["model"].isin(_clean(data).index)]
    return row_names(others)


def draw_tradeoff(data: pd.DataFrame, pens: dict[str, LineStyle], note: str) -> Figure:
    """Each headline share against clean top-1, a panel for each, with the front of the best.

    The front is of models that no other one equals in both and exceeds in one; controls are not
    among them.
    """
    clean, shares = _clean(data), beside_clean(data)
    columns = min(panels_across(), len(shares))
    rows = math.ceil(len(shares) / columns)
    figure = new_figure(1.5 * rows + 0.3)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for panel, (row, name) in zip(panels.flat, shares.items(), strict=False):
        lines = data[[each == row for each in rows_of(data)]].set_index("model")
        points: dict[str, tuple[float, float]] = {}
        for model in (m for m in pens if m in lines.index and m in clean.index):
            (x, *across), (y, *along) = (
                (100 * side.loc[[model], ["value", "low", "high"]].to_numpy(float))[0]
                for side in (clean, lines)
            )
            panel.errorbar(
                x,
                y,
                xerr=np.abs(np.array(across) - x)[:, None],
                yerr=np.abs(np.array(along) - y)[:, None],
                color=pens[model].colour,
                marker=pens[model].marker,
                mfc=pens[model].face,
                elinewidth=0.6,
            )
            points[model] = (float(x), float(y))
        if front := pareto_front([points[model] for model in points if not pens[model].control]):
            panel.step(*zip(*front, strict=True), where="pre", color="0.6", linewidth=0.6, zorder=0)
        panel.set_title(f"{plain(name)} (%)")
        panel.grid(linewidth=0.3, color="0.9")
        panel.set_axisbelow(True)
    for panel in panels.flat[len(shares) :]:
        panel.set_axis_off()
    for column in range(columns):
        below = [i for i in range(len(shares)) if i % columns == column][-1]
        panels.flat[below].set_xlabel("clean top-1 (%)")
        panels.flat[below].tick_params(labelbottom=True)
    shown = [pen for model, pen in pens.items() if model in clean.index]
    legend(figure, [handle(pen, line=False) for pen in shown], noted(note, data))
    return figure


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one dominates (as large in both, larger in one), by their x."""

    def dominated(p: tuple[float, float]) -> bool:
        return any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)

    return sorted({p for p in points if not dominated(p)})
