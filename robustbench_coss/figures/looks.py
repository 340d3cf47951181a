"""How figures look: wording, order and scale of panels, and the line of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from robustbench_coss.records.record import Axis

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
class PanelStyle:
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

LOOKS: dict[str, PanelStyle] = {
    "corruption": PanelStyle(
        panels={
            "noise": "Noise",
            "blur": "Blur",
            "weather": "Weather",
            "digital": "Digital",
            "extra": "Extra",
        },
    ),
    "rf": PanelStyle(panels={"stages": "Effective receptive field"}),
    "occlusion": PanelStyle(
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
    "adversarial": PanelStyle(
        panels=LINF | L2,
        x_label="ε (/255)",
        x_labels=dict.fromkeys(L2, "ε (ℓ2 norm)"),
        scale="symlog",
        hidden=("sanity",),
        controls={"noise-linf": ("worst-linf", "fgsm", "pgd-linf")},
    ),
    "crop": PanelStyle(
        panels={"centre": "Centre crop", "random": "Random crop"},
        x_label="crop area",
        scale="log",
        also=(
            Axis("crop area", "agrees", "same class as full image (%)"),
            Axis("crop area", "cosine", "cosine with full image", percent=False),
        ),
    ),
    "redundancy": PanelStyle(
        panels={"pooled": "Pooling some of the positions"}, scale="log", suffices=True
    ),
}


@dataclass(frozen=True)
class LineStyle:
    """How one model is drawn, the same in every figure of a test set."""

    label: str
    colour: str
    marker: str
    dash: Any


def x_label_of(look: PanelStyle, axis: Axis, group: str) -> str:
    """The x label of a group such as "noise" or "stage2 noise"."""
    own = look.x_labels.get(group) or look.x_labels.get(group.rpartition(" ")[2])
    return own or look.x_label or axis.label


def panel_title(look: PanelStyle, group: str) -> str:
    """The title of a group's panel; a group without one is named as the suite names it."""
    if group in look.panels:
        return look.panels[group]
    stage, _, kind = group.rpartition(" ")
    return f"{stage}: {look.panels[kind]}" if kind in look.panels else group


def with_reference(mine: pd.DataFrame, group: str) -> pd.DataFrame:
    """A group's points after the reference, by level; a level has one point."""
    points = mine[mine["group"].isin(["", group])]
    return points.sort_values(["level", "group"]).drop_duplicates("level", keep="last")


def levels_of(data: pd.DataFrame, group: str) -> list[float]:
    """The levels of a group's curves and of the reference, ascending."""
    return sorted(set(data.loc[data["group"].isin(["", group]), "level"]))


def panel_order(groups: list[str], look: PanelStyle) -> list[str]:
    """The groups that have a panel of their own, in the order drawn."""
    known = [group for group in look.panels if group in groups]
    drawn_into = [g for g, into in look.controls.items() if set(into) & set(groups)]
    others = [g for g in groups if g and g not in (*known, *look.hidden, *drawn_into)]
    return known + others


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
