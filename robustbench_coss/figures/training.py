"""What sweeps over training settings show: accuracy against crop size, weight, grid and field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robustbench_coss.analysis.configurations import (
    SeedGroup,
    TestSet,
    along,
    by_protocol,
)
from robustbench_coss.analysis.curves import (
    GRID,
    MIN_CROP,
    field_data,
    field_order,
    training_data,
)
from robustbench_coss.analysis.labels import Configuration
from robustbench_coss.figures.curves import (
    MOST_BANDS,
    counted,
    draw_line,
    handle,
    legend,
    new_figure,
    noted,
    plain,
)
from robustbench_coss.figures.looks import Drawing, ink_on
from robustbench_coss.figures.pens import MOST_MODELS, pens_of
from robustbench_coss.figures.styles import enlarged

FIELD = "cividis"
TRAINED = "training"  # what these figures are of
TRAINING = {
    "crop": (
        MIN_CROP,
        "smallest training crop (share of the image's area)",
        "Clean top-1 against the smallest training crop.",
    ),
    "w_s": (
        "training.options.w_s",
        "weight of the local term, $w_s$",
        "Clean top-1 against the weight of the local term.",
    ),
    "grid": (
        GRID,
        "local representations in the local term, $n^2$",
        "Clean top-1 against the number of local representations in the local term.",
    ),
}
"""Figure name -> dotted key of the training setting that it is drawn along, x label, caption."""


def training_figures(test_set: TestSet, measurements: Sequence[SeedGroup]) -> list[Drawing]:
    """Clean top-1 along the training settings that vary while all else is equal."""
    made: list[Drawing] = []
    for mine in by_protocol(measurements, "clean"):
        suffix = mine[0].key.removeprefix("clean")
        for name, (key, x_label, caption) in TRAINING.items():
            data = training_data(mine, key)
            if not data.empty:
                families = {shared.label: shared for shared in along(mine, key)}
                draw = partial(_draw_training, data, families, test_set, x_label)
                caption = f"{caption} The y axis does not start at 0."
                made.append(Drawing(f"training-{name}{suffix}", data, draw, caption, TRAINED))
        data = field_data(mine)
        if not data.empty:
            draw = partial(_draw_field, data, test_set)
            caption = "Clean top-1 over architecture and smallest training crop."
            made.append(Drawing(f"training-crop-field{suffix}", data, draw, caption, TRAINED))
    return made


def _draw_training(
    data: pd.DataFrame, families: Mapping[str, Configuration], test_set: TestSet, x_label: str
) -> Figure:
    """One panel, one line per family of models; the y axis need not start at 0."""
    best = data.groupby("model")["value"].max()
    drawn = sorted(families, key=lambda f: -best[f])[:MOST_MODELS]
    drawn.sort(key=list(families).index)
    pens, common = pens_of([families[label] for label in drawn])
    figure = new_figure(2.0)
    panel = figure.subplots()
    # Levels without a number of their own (all positions) take the place after the largest one.
    levels = sorted(set(data["level"]))
    even = math.inf in levels
    place = {level: float(i) if even else level for i, level in enumerate(levels)}
    handles = []
    for family, pen in pens.items():
        mine = data[data["model"] == family].assign(level=lambda d: d["level"].map(place))
        draw_line(panel, mine, pen, 100, thin=False, band=len(pens) <= MOST_BANDS)
        at_zero = mine[mine["level"] == place.get(0.0, -1.0)]
        panel.plot(
            *(at_zero["level"], 100 * at_zero["value"]), pen.marker, color=pen.colour, mfc="white"
        )
        handles.append(handle(pen))
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
    cut = f"the {MOST_MODELS} best of {len(families)}" if len(families) > MOST_MODELS else ""
    about = [test_set.label, common, cut, f"chance {100 * test_set.chance:.3g} %"]
    legend(figure, handles, noted(" · ".join(filter(None, about)), data))
    return figure


def _draw_field(data: pd.DataFrame, test_set: TestSet) -> Figure:
    """A heat map per family of models with a common colour scale; numbers in the cells."""
    families = list(dict.fromkeys(data["model"]))
    archs = sorted(set(data["arch"]), key=field_order)
    levels = sorted(set(data["level"]))
    figure = new_figure(len(families) * (0.3 * len(archs) + 0.45) + 0.4)
    panels = figure.subplots(len(families), 1, squeeze=False, sharex=True)[:, 0]
    shades = Normalize(100 * data["value"].min(), 100 * data["value"].max())
    for panel, family in zip(panels, families, strict=True):
        mine = data[data["model"] == family].set_index(["arch", "level"])
        shown = np.full((len(archs), len(levels)), np.nan)
        for (arch, level), line in mine.iterrows():
            row, column = archs.index(arch), levels.index(level)
            shown[row, column] = 100 * line["value"]
            spread = "" if math.isnan(line["sd"]) else f"\n±{100 * line['sd']:.1f}"
            panel.text(
                *(column, row, f"{shown[row, column]:.1f}{spread}"),
                ha="center",
                va="center",
                fontsize=5.5 * enlarged(),
                color=ink_on(matplotlib.colormaps[FIELD](shades(shown[row, column]))),
            )
        panel.set_facecolor("0.92")  # not measured
        image = panel.imshow(shown, cmap=FIELD, norm=shades, aspect="auto")
        panel.set_title(plain(family))
        panel.set_yticks(range(len(archs)), [plain(arch) for arch in archs])
        panel.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
    panels[-1].set_xlabel(TRAINING["crop"][1])
    bar = figure.colorbar(image, ax=list(panels), fraction=0.04, pad=0.02)
    bar.set_label("clean top-1 (%)")
    bar.outline.set_visible(False)
    spread = "mean ± s.d., " if (data["seeds"] > 1).any() else ""
    empty = "; grey: not measured" if len(data) < len(families) * len(archs) * len(levels) else ""
    title = (
        f"{test_set.label} · {spread}{counted(data['seeds'].astype(int), 'seed')} per point{empty}"
    )
    figure.suptitle(plain(title), fontsize=matplotlib.rcParams["legend.fontsize"])
    return figure
