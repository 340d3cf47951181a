"""Figures of what was measured, for papers and slides, each with its data as CSV.

Every suite is drawn from its records' own groups, levels and metrics; `LOOKS` only adds wording
and scales for the project's own suites. Files depend on the records alone: same records, same
bytes.
"""

from __future__ import annotations

import difflib
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from robustbench_coss.cka_figure import cka_data, draw_cka
from robustbench_coss.configurations import (
    MeasuredSet,
    Measurement,
    along,
    load_measurements,
    setting,
    without_local_term,
)
from robustbench_coss.errors import CossError
from robustbench_coss.field_figure import draw_fields, field_sizes, read_fields
from robustbench_coss.files import slug, write_atomically
from robustbench_coss.records import Axis, Metric, Record
from robustbench_coss.statistics import Estimate, estimate
from robustbench_coss.styles import enlarged, panels_across, styled, width_inches
from robustbench_coss.sufficient_share import KEPT, share_for_95_percent

MOST_MODELS = 8

# Okabe and Ito (2008), "Color universal design": told apart with every common colour blindness.
# Their yellow is too faint for lines on white; grey takes its place. Marker and dash differ too.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#000000",
    "#7F7F7F",
)
MARKERS = "osD^vPX*"
DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (6, 3)), ":")


@dataclass(frozen=True)
class Look:
    """Wording and scales that a suite's records do not carry.

    Attributes:
        panels: titles by group, in the order drawn; groups not named follow under their own name.
            The title of "noise" is that of "stage2 noise" too, after the name of the stage.
        x_label: x label that is shorter than the suite's axis ("" keeps that).
        x_labels: x labels of groups with an axis of their own.
        scale: "linear", "log" (shares, largest first) or "symlog" (budgets from 0 up, doubling).
        hidden: groups not drawn.
        controls: for a control group the panels it is drawn into, thin, instead of its own.
        suffices: whether levels are shares of which the smallest that keeps 95 % of the reference
            value is marked.
        also: further outcome columns that are drawn in figures of their own.
    """

    panels: dict[str, str] = field(default_factory=dict)
    x_label: str = ""
    x_labels: dict[str, str] = field(default_factory=dict)
    scale: str = "linear"
    hidden: tuple[str, ...] = ()
    controls: dict[str, tuple[str, ...]] = field(default_factory=dict)
    suffices: bool = False
    also: tuple[Axis, ...] = ()


LINF = {
    "worst-linf": "Worst case, ℓ∞",
    "fgsm": "FGSM",
    "mi-fgsm": "MI-FGSM",
    "pgd-linf": "PGD, ℓ∞",
    "apgd-ce": "APGD-CE",
    "apgd-dlr": "APGD-DLR",
    "fab": "FAB",
    "square": "Square",
    "autoattack": "AutoAttack",
}
L2 = {
    "worst-l2": "Worst case, ℓ2",
    "pgd-l2": "PGD, ℓ2",
    **{f"{name}-l2": f"{LINF[name]}, ℓ2" for name in list(LINF)[4:]},
}

LOOKS: dict[str, Look] = {
    "corruption": Look(
        panels={
            "noise": "Noise",
            "blur": "Blur",
            "weather": "Weather",
            "digital": "Digital",
            "extra": "Extra",
        },
    ),
    "rf": Look(panels={"stages": "Effective receptive field"}),
    "occlusion": Look(
        panels={
            "random-zero": "Random, zeroed",
            "random-drop": "Random, dropped",
            "block-zero": "Block, zeroed",
            "block-drop": "Block, dropped",
            "noise": "Feature noise",
            "input-patches": "Input patches (control)",
        },
        x_label="masked share",
        x_labels={"noise": "noise σ (channel s.d.)"},
    ),
    "adversarial": Look(
        panels=LINF | L2,
        x_label="ε (/255)",
        x_labels=dict.fromkeys(L2, "ε (ℓ2 norm)"),
        scale="symlog",
        hidden=("sanity",),
        controls={"noise-linf": ("worst-linf", "fgsm", "pgd-linf")},
    ),
    "crop": Look(
        panels={"centre": "Centre crop", "random": "Random crop"},
        x_label="crop area",
        scale="log",
        also=(
            Axis("crop area", "agrees", "same class as full image (%)"),
            Axis("crop area", "cosine", "cosine with full image", percent=False),
        ),
    ),
    "redundancy": Look(
        panels={"pooled": "Pooling some of the positions"}, scale="log", suffices=True
    ),
}


@dataclass(frozen=True)
class Pen:
    """How one model is drawn, the same in every figure of a test set."""

    label: str
    colour: str
    marker: str
    dash: Any


def write_figures(
    results: Path,
    names: Sequence[str] = (),
    *,
    style: str = "paper",
    inches: float | None = None,
    out: Path | None = None,
) -> list[Path]:
    """Draw every figure that the records allow into `results/figures/<test set>/`.

    Each figure is a PDF, a PNG and the CSV of its numbers. More than `MOST_MODELS` models are
    cut to the best by clean top-1, and the figure says so; its CSV holds what is drawn.

    Args:
        results: folder of the records.
        names: figures to draw ("corruption", "training-crop"); none for all.
        style: one of `styles.STYLES`.
        inches: width of the figures; None for that of the style.
        out: folder to write into instead of `results/figures`.

    Returns:
        Paths written, three per figure.

    Raises:
        CossError: there are no complete records, one is damaged, a figure is not among those that
            they allow, or the folder is not writable.
    """
    measurements = load_measurements(results)
    with styled(style, inches):
        made = [
            (test_set, name, data, figure)
            for test_set in dict.fromkeys(m.test_set for m in measurements)
            for name, data, figure in draw_figures(measurements, test_set)
        ]
        known = list(dict.fromkeys(name for _, name, _, _ in made))
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known)
                hint = (
                    f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}"
                )
                raise CossError(f"these records allow no figure {name!r}; {hint}")
        written: list[Path] = []
        for test_set, name, data, figure in made:
            if not names or name in names:
                folder = (out or results / "figures") / test_set.slug
                written += _save(folder / slug(name), data, figure)
    return written


def draw_figures(
    measurements: Sequence[Measurement], test_set: MeasuredSet
) -> list[tuple[str, pd.DataFrame, Figure]]:
    """(name, data, figure) of everything that measurements on one test set allow.

    Called within `styles.styled`, whose style the figures get.
    """
    here = [m for m in measurements if m.test_set == test_set]
    ranked = rank_models(here)
    labels, common = legend_labels(ranked[:MOST_MODELS])
    pens = {
        model: Pen(labels[i], COLOURS[i], MARKERS[i], DASHES[i])
        for i, model in enumerate(ranked[:MOST_MODELS])
    }
    kept = [m for m in here if m.configuration in pens]
    cut = f"the {MOST_MODELS} best of {len(ranked)} models by clean top-1"
    note = "\n".join(filter(None, [common, cut if len(ranked) > MOST_MODELS else ""]))
    return _figures(test_set, kept, pens, note) + _training_figures(test_set, here)


def rank_models(measurements: Sequence[Measurement]) -> list[str]:
    """Configurations of one test set by clean top-1, best first; unmeasured ones last, by name."""
    clean: dict[str, float] = {}
    for m in measurements:
        if m.suite == "clean" and m.configuration not in clean:
            clean[m.configuration] = metric_estimate(m, m.records[0].metrics[0]).value
    names = {m.configuration for m in measurements}
    return sorted(names, key=lambda name: (-clean.get(name, -math.inf), name))


def legend_labels(models: Sequence[str]) -> tuple[list[str], str]:
    """Labels without what all models share after " · ", and what they share ("" if nothing)."""
    parts = [model.partition(" · ") for model in models]
    rests = {rest for _, _, rest in parts}
    if len(models) < 2 or len(rests) > 1 or "" in rests:
        return list(models), ""
    return [head for head, _, _ in parts], rests.pop()


def _figures(
    test_set: MeasuredSet, measurements: list[Measurement], pens: dict[str, Pen], note: str
) -> list[tuple[str, pd.DataFrame, Figure]]:
    """(name, data, figure) of everything that can be drawn for one test set."""
    made: list[tuple[str, pd.DataFrame, Figure]] = []
    for suite, protocol in dict.fromkeys((m.suite, m.protocol) for m in measurements):
        mine = [m for m in measurements if (m.suite, m.protocol) == (suite, protocol)]
        mine.sort(key=lambda m: list(pens).index(m.configuration))
        name = f"{suite}-{protocol}" if protocol else suite
        look = LOOKS.get(suite, Look())
        for axis in (mine[0].records[0].axis, *look.also):
            curves = curve_data(mine, axis)
            if curves.empty:
                continue
            shares = share_data(mine) if look.suffices else pd.DataFrame()
            figure = _draw_curves(curves, shares, axis, look, test_set, pens, note)
            column = "" if axis == mine[0].records[0].axis else f"-{axis.column}"
            numbers = curves if shares.empty else pd.concat([curves, shares])
            made.append((f"{name}{column}", numbers, figure))
        apart = metric_data(mine, _metrics_apart(mine[0].records[0]))
        if not apart.empty:
            made.append((f"{name}-metrics", apart, _draw_metrics(apart, pens, note)))
        fields = {
            pens[m.configuration].label: found
            for m in mine
            if suite == "rf" and (found := read_fields(m.records[0]))
        }
        if fields:
            made.append((f"{name}-fields", field_sizes(fields), draw_fields(fields)))
        cka = cka_data(mine) if suite == "redundancy" else pd.DataFrame()
        if not cka.empty:
            titles = {model: _plain(pen.label) for model, pen in pens.items()}
            made.append((f"{name}-cka", cka, draw_cka(cka, titles)))
    summary = pd.concat(
        [
            metric_data([m], [k for k in m.records[0].metrics if k.headline and k.percent])
            for m in measurements
        ]
    )
    if not summary.empty:
        made.insert(0, ("summary", summary, _draw_summary(summary, test_set, pens, note)))
    return made


def curve_data(measurements: Sequence[Measurement], axis: Axis | None = None) -> pd.DataFrame:
    """What a suite's curves show: one line per model, group and level.

    Conditions that share group and level are averaged. The reference (empty group) starts every
    group's curve. Columns: suite, model, group, level, conditions, value, low, high, sd, seeds,
    n, interval. Empty if no group but the reference has the y column.

    Args:
        axis: what is drawn along y; None takes the suite's own.
    """
    lines = []
    for m in measurements:
        y = axis or m.records[0].axis
        points = _points(m.records[0], y.column)
        if not any(group for group, _ in points):
            continue
        for (group, level), conditions in points.items():
            runs = [[r.column(c, y.column) for c in conditions] for r in m.records]
            own = y.column == m.records[0].axis.column
            names = (m.test_set.slug, m.configuration, m.suite, group, level)
            result = estimate(runs, *names, *([] if own else [y.column]), share=y.percent)
            about = {"group": group, "level": level, "conditions": len(conditions)}
            lines.append(_data_line(m, about, result))
    return pd.DataFrame(lines)


def _points(record: Record, column: str) -> dict[tuple[str, float], list[str]]:
    """(group, level) -> names of the conditions there that have an outcome column."""
    points: dict[tuple[str, float], list[str]] = {}
    for cell in record.cells:
        if column in cell.outcomes:
            points.setdefault((cell.group, cell.level), []).append(cell.condition)
    return points


def share_data(measurements: Sequence[Measurement]) -> pd.DataFrame:
    """The smallest share that keeps 95 % of the reference value: one line per model and group.

    Columns as `curve_data`; group "95 % kept: GROUP", value the share, level that of the
    accuracy kept. Empty unless the reference is measured at the share 1.
    """
    lines = []
    for m in measurements:
        column = m.records[0].axis.column
        points = _points(m.records[0], column)
        groups = dict.fromkeys(group for group, _ in points if group)
        for group in groups if ("", 1.0) in points else ():
            at = {level: names for (g, level), names in points.items() if g in ("", group)}
            runs = [
                [np.mean([r.column(c, column) for c in names], axis=0) for names in at.values()]
                for r in m.records
            ]
            names = (m.test_set.slug, m.configuration, m.suite, group)
            about = {"group": f"95 % kept: {group}", "level": KEPT, "conditions": len(at)}
            lines.append(_data_line(m, about, share_for_95_percent(list(at), runs, *names)))
    return pd.DataFrame(lines)


def metric_data(measurements: Sequence[Measurement], metrics: Sequence[Metric]) -> pd.DataFrame:
    """Metrics with intervals: one line per model and metric.

    Columns: suite, model, metric, heading, percent, value, low, high, sd, seeds, n, interval.
    """
    lines = []
    for m in measurements:
        for metric in metrics:
            heading = metric.label + (f" ({m.protocol})" if m.protocol else "")
            about = {"metric": metric.name, "heading": heading, "percent": metric.percent}
            lines.append(_data_line(m, about, metric_estimate(m, metric)))
    return pd.DataFrame(lines)


def _data_line(m: Measurement, about: dict[str, Any], result: Estimate) -> dict[str, Any]:
    return {
        "suite": m.suite,
        "model": m.configuration,
        **about,
        **m.columns(result),
    }


def metric_estimate(m: Measurement, metric: Metric) -> Estimate:
    """A metric with its interval, as the leaderboard has it."""
    runs = [[r.column(c, metric.column) for c in metric.conditions] for r in m.records]
    names = (m.test_set.slug, m.configuration, m.suite, metric.name)
    return estimate(runs, *names, share=metric.percent)


def _metrics_apart(record: Record) -> list[Metric]:
    """Metrics over conditions that no curve shows, such as a similarity beside accuracies."""
    drawn = {c.condition for c in record.cells if record.axis.column in c.outcomes}
    return [k for k in record.metrics if not drawn.intersection(k.conditions)]


def _new_figure(height: float) -> Figure:
    """A figure as wide as the style says; its height in inches is that with a paper's text."""
    figure = Figure(figsize=(width_inches(), height * enlarged()), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw_curves(
    data: pd.DataFrame,
    shares: pd.DataFrame,
    axis: Axis,
    look: Look,
    test_set: MeasuredSet,
    pens: dict[str, Pen],
    note: str,
) -> Figure:
    """One panel per group in two columns with a common y axis; below them the shares, if any."""
    groups = panel_order(list(dict.fromkeys(data["group"])), look)
    x_labels = [x_label_of(look, axis, g) for g in groups]
    columns = min(panels_across(), len(groups))
    rows = math.ceil(len(groups) / columns)
    drawn = [model for model in pens if model in set(data["model"])]
    heights = [1.6 if columns == 1 else 1.25] * rows
    if not shares.empty:
        heights.append(0.1 * len(drawn) + 0.25)
    figure = _new_figure(sum(heights) + (0.6 if columns == 1 else 0.3))
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
    for i, (panel, group) in enumerate(zip(panels.flat, groups, strict=False)):
        for model in drawn:
            pen, mine = pens[model], data[data["model"] == model]
            _draw_line(panel, with_reference(mine, group), pen, scale, thin=False)
            for control, into in look.controls.items():
                if group in into and control in set(mine["group"]):
                    _draw_line(panel, with_reference(mine, control), pen, scale, thin=True)
            reference = mine[mine["group"] == ""]
            if not shares.empty and not reference.empty:
                level = scale * KEPT * float(reference["value"].iloc[0])
                panel.axhline(level, color=pen.colour, linestyle=(0, (4, 3)), linewidth=0.5)
        if axis.column == "correct":
            _chance_line(panel, test_set, "h")
        _scale_x(panel, levels_of(data, group), look.scale)
        panel.set_title(_plain(panel_title(look, group)))
        if i + columns >= len(groups) or x_labels[i + columns] != x_labels[i]:
            panel.set_xlabel(x_labels[i])
        panel.grid(axis="y", linewidth=0.3, color="0.9")
        panel.set_axisbelow(True)
    for panel in panels.flat[len(groups) :]:
        panel.set_axis_off()
    for row in panels:
        row[0].set_ylabel(axis.column_label)
    if axis.percent:
        panels[0, 0].set_ylim(
            0, min(100.0, 1.08 * scale * float(data["high"].fillna(data["value"]).max()))
        )
    handles = [_handle(pens[model]) for model in drawn]
    if axis.column == "correct":
        handles.append(_chance_handle(test_set))
    if not shares.empty:
        _draw_shares(strip, shares, {model: pens[model] for model in drawn}, panels[0, 0])
        label = f"{100 * KEPT:.0f} % of clean"
        handles.append(
            Line2D([], [], color="0.4", linestyle=(0, (4, 3)), linewidth=0.5, label=label)
        )
    if look.controls and set(look.controls) & set(data["group"]):
        handles.append(
            Line2D([], [], color="0.4", linewidth=0.5, label="random noise of that size")
        )
    _legend(figure, handles, note)
    return figure


def _draw_shares(strip: Axes, shares: pd.DataFrame, pens: dict[str, Pen], above: Axes) -> None:
    """Shares with their intervals, one row per model, along the x axis of the panel above."""
    low_end, high_end = sorted(above.get_xlim())
    values = []
    for i, (model, pen) in enumerate(pens.items()):
        mine = shares[shares["model"] == model]
        values.append(", ".join(f"{100 * value:.3g} %" for value in mine["value"]))
        for _, line in mine.iterrows():
            ends = [max(line["low"], low_end), min(line["high"], high_end)]
            strip.plot(ends, [i, i], color=pen.colour, linewidth=0.8)
            strip.plot([line["value"]], [i], color=pen.colour, marker=pen.marker)
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


def x_label_of(look: Look, axis: Axis, group: str) -> str:
    """The x label of a group such as "noise" or "stage2 noise"."""
    own = look.x_labels.get(group) or look.x_labels.get(group.rpartition(" ")[2])
    return own or look.x_label or axis.label


def panel_title(look: Look, group: str) -> str:
    """The title of a group's panel; a group without one is named as the suite names it."""
    if group in look.panels:
        return look.panels[group]
    stage, _, kind = group.rpartition(" ")
    return f"{stage}: {look.panels[kind]}" if kind in look.panels else group


def _draw_line(panel: Axes, points: pd.DataFrame, pen: Pen, scale: float, thin: bool) -> None:
    x, y = points["level"].to_numpy(), scale * points["value"].to_numpy()
    low, high = scale * points["low"].to_numpy(), scale * points["high"].to_numpy()
    if thin:
        panel.plot(x, y, color=pen.colour, linewidth=0.5)
        return
    panel.fill_between(x, low, high, color=pen.colour, alpha=0.18, linewidth=0)
    panel.plot(x, y, color=pen.colour, marker=pen.marker, linestyle=pen.dash)


def with_reference(mine: pd.DataFrame, group: str) -> pd.DataFrame:
    """A group's points after the reference, by level; a level has one point."""
    points = mine[mine["group"].isin(["", group])]
    return points.sort_values(["level", "group"]).drop_duplicates("level", keep="last")


def levels_of(data: pd.DataFrame, group: str) -> list[float]:
    """The levels of a group's curves and of the reference, ascending."""
    return sorted(set(data.loc[data["group"].isin(["", group]), "level"]))


def panel_order(groups: list[str], look: Look) -> list[str]:
    """The groups that have a panel of their own, in the order drawn."""
    known = [group for group in look.panels if group in groups]
    drawn_into = [g for g, into in look.controls.items() if set(into) & set(groups)]
    others = [g for g in groups if g and g not in (*known, *look.hidden, *drawn_into)]
    return known + others


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


def axis_positions(levels: Sequence[float], scale: str) -> dict[float, float]:
    """Where ascending levels stand on an axis of a `Look`'s scale, in any unit, left to right."""
    positive = [level for level in levels if level > 0]
    if scale == "linear" or not positive:
        return {level: level for level in levels}
    if scale == "log":  # towards the harder end, as on every other axis
        return {level: -math.log2(level / positive[0]) for level in positive}
    # "symlog" in base 2: linear up to the first positive level, then a unit for each doubling.
    return {v: math.log2(v / positive[0]) + 1 if v > 0 else 0.0 for v in levels}


def spread_ticks(levels: Sequence[float], scale: str) -> list[float]:
    """The levels that have room for a tick label, beginning at the axis' left end."""
    position = axis_positions(levels, scale)
    gap = 0.13 * (max(position.values()) - min(position.values()))
    chosen: list[float] = []
    for level in sorted(position, key=position.__getitem__):
        if not chosen or abs(position[level] - position[chosen[-1]]) >= gap:
            chosen.append(level)
    return chosen


def tick_text(x: float) -> str:
    """A level as it stands at a tick of a scaled axis (".25", "8")."""
    return f"{x:.3g}".replace("0.", ".", 1) if 0 < x < 1 else f"{x:g}"


def _chance_line(panel: Axes, test_set: MeasuredSet, direction: str) -> None:
    draw = panel.axhline if direction == "h" else panel.axvline
    draw(100 * test_set.chance, color="0.4", linestyle=":", linewidth=0.7, zorder=1)


def _chance_handle(test_set: MeasuredSet) -> Line2D:
    label = f"chance ({100 * test_set.chance:.3g} %)"
    return Line2D([], [], color="0.4", linestyle=":", linewidth=0.7, label=label)


def _handle(pen: Pen, line: bool = True) -> Line2D:
    handle = Line2D([], [], color=pen.colour, marker=pen.marker, label=_plain(pen.label))
    handle.set_linestyle(pen.dash if line else "none")
    return handle


def _plain(text: str) -> str:
    """Text of others as it is: "$" starts no formula, a leading "_" hides no legend entry."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def _legend(figure: Figure, handles: list[Line2D], note: str) -> None:
    """A legend above the panels; the figure grows by its height."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = panels_across() * (3 if longest <= 16 else 2 if longest <= 32 else 1) // 2 or 1
    rows = math.ceil(len(handles) / columns)
    columns = math.ceil(len(handles) / rows)
    lines = rows + len(note.splitlines())
    figure.set_figheight(figure.get_figheight() + 0.12 * lines * enlarged())
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=columns,
        title=_plain(note) or None,
        title_fontsize=matplotlib.rcParams["legend.fontsize"],
        columnspacing=1.2,
        handletextpad=0.5,
        labelspacing=0.25,
        borderaxespad=0.5,
        borderpad=0,
    )


def _dots(panel: Axes, y: Sequence[float], lines: pd.DataFrame, pen: Pen, scale: float) -> None:
    value = scale * lines["value"].to_numpy()
    reach = np.abs(scale * lines[["low", "high"]].to_numpy().T - value)
    panel.errorbar(
        value,
        y,
        xerr=np.nan_to_num(reach),
        color=pen.colour,
        marker=pen.marker,
        linestyle="none",
        elinewidth=0.8,
    )


def _draw_summary(
    data: pd.DataFrame, test_set: MeasuredSet, pens: dict[str, Pen], note: str
) -> Figure:
    """Headline shares as rows of dots, one dot per model."""
    headings = list(dict.fromkeys(data["heading"]))
    room = 0.08 * len(pens) + 0.12  # inches per row
    figure = _new_figure(room * len(headings) + 0.5)
    panel = figure.subplots()
    for i, (model, pen) in enumerate(pens.items()):
        mine = data[data["model"] == model]
        shift = 0.7 * ((i + 0.5) / len(pens) - 0.5)
        _dots(panel, [headings.index(h) + shift for h in mine["heading"]], mine, pen, 100)
    _chance_line(panel, test_set, "v")
    panel.set_yticks(range(len(headings)), [_plain(h) for h in headings])
    panel.set_ylim(len(headings) - 0.5, -0.5)
    panel.set_xlim(0, 100)
    panel.set_xlabel("share of images (%)")
    panel.tick_params(axis="y", length=0)
    for row in range(1, len(headings)):
        panel.axhline(row - 0.5, color="0.85", linewidth=0.4)
    handles = [_handle(pen, line=False) for pen in pens.values()]
    _legend(figure, [*handles, _chance_handle(test_set)], note)
    return figure


def _draw_metrics(data: pd.DataFrame, pens: dict[str, Pen], note: str) -> Figure:
    """One small panel per metric, each with its own x axis, one bar per model."""
    metrics = list(dict.fromkeys(data["metric"]))
    columns = min(panels_across(), len(metrics))
    rows = math.ceil(len(metrics) / columns)
    models = [model for model in pens if model in set(data["model"])]
    figure = _new_figure(rows * (0.12 * len(models) + 0.45) + 0.15)
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
        panel.set_title(_plain(str(lines["heading"].iloc[0])) + (" (%)" if percent else ""))
        panel.set_ylim(len(models) - 0.4, -0.6)
        panel.set_yticks([])
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.spines["left"].set_visible(False)
    for panel in panels.flat[len(metrics) :]:
        panel.set_axis_off()
    _legend(figure, [_handle(pens[model], line=False) for model in models], note)
    return figure


MIN_CROP = "training.views.min_crop"
GRID = "training.options.grid"

TRAINING = {
    "crop": (MIN_CROP, "smallest training crop (share of the image's area)"),
    "w_s": ("training.options.w_s", "weight of the local term, $w_s$"),
    "grid": (GRID, "local representations in the local term, $n^2$"),
}
"""Figure name -> dotted key of the training setting that it is drawn along, and its x label."""


def _training_figures(
    test_set: MeasuredSet, measurements: Sequence[Measurement]
) -> list[tuple[str, pd.DataFrame, Figure]]:
    """Clean top-1 along the training settings that vary while all else is equal."""
    made: list[tuple[str, pd.DataFrame, Figure]] = []
    clean = [m for m in measurements if m.suite == "clean"]
    for protocol in dict.fromkeys(m.protocol for m in clean):
        mine = [m for m in clean if m.protocol == protocol]
        suffix = f"-{protocol}" if protocol else ""
        for name, (key, x_label) in TRAINING.items():
            data = training_data(mine, key)
            if not data.empty:
                figure = _draw_training(data, test_set, x_label)
                made.append((f"training-{name}{suffix}", data, figure))
        data = field_data(mine)
        if not data.empty:
            made.append((f"training-crop-field{suffix}", data, _draw_field(data, test_set)))
    return made


def training_data(measurements: Sequence[Measurement], key: str) -> pd.DataFrame:
    """The first metric along a training setting: one line per family of models and value.

    A setting of the local term starts at level 0, the base method without that term, where one was
    measured. All positions (a grid of null) are the level infinity.

    Columns: suite, model, configuration, level, metric, value, low, high, sd, seeds, n, interval.
    """
    lines = []
    for label, family in along(measurements, key).items():
        points = [(_level(m, key), m) for m in family]
        base = without_local_term(family[0], measurements) if key != MIN_CROP else None
        if base is not None and 0.0 not in dict(points):
            points.append((0.0, base))
        for level, m in sorted(points, key=lambda point: point[0]):
            metric = m.records[0].metrics[0]
            about = {
                "model": label,
                "configuration": m.configuration,
                "level": level,
                "metric": metric.name,
            }
            lines.append(_data_line(m, about, metric_estimate(m, metric)))
    return pd.DataFrame(lines)


def _level(m: Measurement, key: str) -> float:
    value = setting(m, key)
    if key == GRID:
        return math.inf if value is None else float(value) ** 2
    return float(value)


def field_data(measurements: Sequence[Measurement]) -> pd.DataFrame:
    """The first metric over architecture and smallest training crop.

    Columns: suite, model, arch, level, metric, value, low, high, sd, seeds, n, interval. Bounded
    fields come first, by size, then the other architectures by name.
    """
    lines = []
    for label, family in along(measurements, "arch", MIN_CROP).items():
        for m in sorted(family, key=lambda m: (_field_order(m.model["arch"]), _level(m, MIN_CROP))):
            metric = m.records[0].metrics[0]
            about = {
                "model": label,
                "arch": m.model["arch"],
                "level": _level(m, MIN_CROP),
                "metric": metric.name,
            }
            lines.append(_data_line(m, about, metric_estimate(m, metric)))
    return pd.DataFrame(lines)


def _field_order(arch: str) -> tuple[float, str]:
    bounded = re.match(r"rf(\d+)_", arch)
    return (float(bounded[1]) if bounded else math.inf, arch)


_INTERVALS = {
    "t": "Student's t over seeds",
    "wilson": "Wilson over test images",
    "bootstrap": "bootstrap over test images",
}


def _seeds_note(data: pd.DataFrame) -> str:
    low, high = int(data["seeds"].min()), int(data["seeds"].max())
    count = f"{low}" if low == high else f"{low} to {high}"
    return f"{count} seed{'s' if high > 1 else ''} per point"


def _draw_training(data: pd.DataFrame, test_set: MeasuredSet, x_label: str) -> Figure:
    """One panel, one line per family of models; the y axis need not start at 0."""
    families = list(dict.fromkeys(data["model"]))
    best = data.groupby("model")["value"].max()
    drawn = sorted(families, key=lambda f: -best[f])[:MOST_MODELS]
    drawn.sort(key=families.index)
    labels, common = legend_labels(drawn)
    figure = _new_figure(2.0)
    panel = figure.subplots()
    # Levels without a number of their own (all positions) take the place after the largest one.
    levels = sorted(set(data["level"]))
    even = math.inf in levels
    place = {level: float(i) if even else level for i, level in enumerate(levels)}
    handles = []
    for i, family in enumerate(drawn):
        pen = Pen(labels[i], COLOURS[i], MARKERS[i], DASHES[i])
        mine = data[data["model"] == family].assign(level=lambda d: d["level"].map(place))
        _draw_line(panel, mine, pen, 100, thin=False)
        at_zero = mine[mine["level"] == place.get(0.0, -1.0)]
        panel.plot(
            *(at_zero["level"], 100 * at_zero["value"]), pen.marker, color=pen.colour, mfc="white"
        )
        handles.append(_handle(pen))
    if 0.0 in levels:
        label = "0: without local term"
        handles.append(Line2D([], [], color="0.3", marker="o", ls="none", mfc="white", label=label))
    width = max(place.values()) - min(place.values())
    shown: list[float] = []
    for level in levels:  # those that have room for a tick label
        if not shown or place[level] - place[shown[-1]] >= 0.07 * width:
            shown.append(level)
    names = ["all" if level == math.inf else f"{level:g}" for level in shown]
    panel.set_xticks([place[level] for level in shown], names)
    panel.set_xlabel(x_label)
    panel.set_ylabel("clean top-1 (%)")
    panel.grid(axis="y", linewidth=0.3, color="0.9")
    panel.set_axisbelow(True)
    kinds = " and ".join(_INTERVALS[kind] for kind in dict.fromkeys(data["interval"]))
    cut = f"the {MOST_MODELS} best of {len(families)}" if len(families) > MOST_MODELS else ""
    about = [test_set.label, common, cut, f"chance {100 * test_set.chance:.3g} %"]
    bands = f"{_seeds_note(data)}; bands: 95 %, {kinds}"
    _legend(figure, handles, " · ".join(filter(None, about)) + f"\n{bands}")
    return figure


def _draw_field(data: pd.DataFrame, test_set: MeasuredSet) -> Figure:
    """A heat map per family of models with a common colour scale; numbers in the cells."""
    families = list(dict.fromkeys(data["model"]))
    archs = sorted(set(data["arch"]), key=_field_order)
    levels = sorted(set(data["level"]))
    figure = _new_figure(len(families) * (0.3 * len(archs) + 0.45) + 0.4)
    panels = figure.subplots(len(families), 1, squeeze=False, sharex=True)[:, 0]
    shades = Normalize(100 * data["value"].min(), 100 * data["value"].max())
    for panel, family in zip(panels, families, strict=True):
        mine = data[data["model"] == family].set_index(["arch", "level"])
        shown = np.full((len(archs), len(levels)), np.nan)
        for (arch, level), line in mine.iterrows():
            row, column = archs.index(arch), levels.index(level)
            shown[row, column] = 100 * line["value"]
            spread = "" if math.isnan(line["sd"]) else f"\n±{100 * line['sd']:.1f}"
            dark = shades(shown[row, column]) < 0.55
            panel.text(
                *(column, row, f"{shown[row, column]:.1f}{spread}"),
                ha="center",
                va="center",
                fontsize=5.5 * enlarged(),
                color="white" if dark else "black",
            )
        panel.set_facecolor("0.92")  # not measured
        image = panel.imshow(shown, cmap="cividis", norm=shades, aspect="auto")
        panel.set_title(_plain(family))
        panel.set_yticks(range(len(archs)), [_plain(arch) for arch in archs])
        panel.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
    panels[-1].set_xlabel(TRAINING["crop"][1])
    bar = figure.colorbar(image, ax=list(panels), fraction=0.04, pad=0.02)
    bar.set_label("clean top-1 (%)")
    bar.outline.set_visible(False)
    spread = "mean ± s.d., " if (data["seeds"] > 1).any() else ""
    empty = "; grey: not measured" if len(data) < len(families) * len(archs) * len(levels) else ""
    title = f"{test_set.label} · {spread}{_seeds_note(data)}{empty}"
    figure.suptitle(_plain(title), fontsize=matplotlib.rcParams["legend.fontsize"])
    return figure


def _save(stem: Path, data: pd.DataFrame, figure: Figure) -> list[Path]:
    # Dates and versions of the software would make equal figures unequal files.
    undated = {"pdf": {"CreationDate": None}, "png": {"Software": None}}
    paths = []
    for suffix, metadata in undated.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, metadata=metadata)
        figure.set_layout_engine("none")  # laid out once, for both
        paths.append(stem.with_name(f"{stem.name}.{suffix}"))
        write_atomically(paths[-1], buffer.getvalue())
    paths.append(stem.with_name(f"{stem.name}.csv"))
    write_atomically(paths[-1], data.to_csv(index=False, lineterminator="\n"))
    return paths
