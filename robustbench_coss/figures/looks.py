"""How figures look: order, words and scale of panels, and the line of a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from robustbench_coss.analysis.configurations import SeedGroup
from robustbench_coss.records.about import SuiteAbout
from robustbench_coss.records.record import Axis, Cell


@dataclass(frozen=True)
class Drawing:
    """A figure with its numbers, drawn when it is wanted.

    Attributes:
        name: of its files ("corruption-a", "training-crop").
        data: the numbers that are drawn.
        draw: makes it, in the style that is active then.
        caption: in a sentence or two; "" if nobody wrote one.
        of: what it is of: a suite with its protocol ("corruption-a"), "training" or "summary".
    """

    name: str
    data: pd.DataFrame
    draw: Callable[[], Figure]
    caption: str
    of: str


@dataclass(frozen=True)
class LineStyle:
    """How one model is drawn, the same in every figure of a test set.

    Attributes:
        filled: whether its markers are.
        control: whether it is a control.
    """

    label: str
    colour: str
    marker: str
    dash: Any
    filled: bool = True
    control: bool = False

    @property
    def face(self) -> str:
        """The colour inside of a marker."""
        return self.colour if self.filled else "white"


@dataclass(frozen=True)
class PanelStyle:
    """The words of one panel.

    Attributes:
        group: of the conditions drawn in it.
    """

    group: str
    title: str
    x_label: str


def ink_on(shade: tuple[float, ...] | NDArray[Any]) -> str:
    """Black or white, whichever stands out more from a shade (WCAG 2.1, "contrast ratio").

    Args:
        shade: red, green and blue, in [0, 1]; what follows them is left out.
    """
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shade[:3]
    )
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


def panel_styles(mine: Sequence[SeedGroup], axis: Axis, groups: Iterable[str]) -> list[PanelStyle]:
    """The panels of one suite's groups that have one of their own, in the order drawn."""
    about = mine[0].about
    of = {cell.group: cell for m in mine for cell in m.records[0].cells}
    found = []
    for group in panel_order(list(dict.fromkeys(groups)), about):
        x_label = about.x_labels.get(group) or about.x_labels.get(of[group].kind) or about.x_label
        found.append(PanelStyle(group, panel_title(about, of[group]), x_label or axis.label))
    return found


def panel_title(about: SuiteAbout, cell: Cell) -> str:
    """The title of the panel of a condition; "" for the reference, which has none."""
    own = about.panels.get(cell.group)
    if own is None and cell.kind in about.panels:
        own = about.panels[cell.kind]
        own = f"{cell.stage}: {own}" if cell.stage else own
    return own or cell.group


def panel_order(groups: list[str], about: SuiteAbout) -> list[str]:
    """The groups that have a panel of their own, in the order drawn."""
    known = [group for group in about.panels if group in groups]
    drawn_into = [g for g, into in about.controls.items() if set(into) & set(groups)]
    others = [g for g in groups if g and g not in (*known, *about.hidden, *drawn_into)]
    return known + others


def with_reference(mine: pd.DataFrame, group: str) -> pd.DataFrame:
    """A group's points after the reference, by level; a level has one point."""
    points = mine[mine["group"].isin(["", group])]
    return points.sort_values(["level", "group"]).drop_duplicates("level", keep="last")


def levels_of(data: pd.DataFrame, group: str) -> list[float]:
    """The levels of a group's curves and of the reference, ascending."""
    return sorted(set(data.loc[data["group"].isin(["", group]), "level"]))


def axis_positions(levels: Sequence[float], scale: str) -> dict[float, float]:
    """Where ascending levels stand on an axis of a panel's scale, in any unit, from the left."""
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
