"""A heat map of errors: models by corruptions."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from robustbench_coss.analysis.corruption_heat import Heat
from robustbench_coss.figures.curves import basis, new_figure, plain
from robustbench_coss.figures.looks import LineStyle, ink_on

ROW = 0.17  # inches


def heat_table(heat: Heat) -> pd.DataFrame:
    """What is drawn: columns suite, model, family, corruption, error (in [0, 1]), seeds, n (test
    images)."""
    rows = zip(heat.models, heat.errors, heat.seeds, heat.images, strict=True)
    return pd.DataFrame(
        [
            {
                "suite": heat.suite,
                "model": model,
                "family": family,
                "corruption": kind,
                "error": error,
                "seeds": seeds,
                "n": images,
            }
            for model, errors, seeds, images in rows
            for family, kind, error in zip(heat.families, heat.kinds, errors, strict=True)
        ]
    )


def draw_heat(heat: Heat, pens: dict[str, LineStyle]) -> Figure:
    """Errors in % as shades and numbers, families apart; beside them their means and mCE."""
    figure = new_figure(ROW * len(heat.models) + 1.57)
    panel = figure.subplots()
    errors = 100 * heat.errors
    mesh = panel.pcolormesh(errors, cmap="Blues", shading="flat")  # shapes, not an image
    panel.set_ylim(len(errors), 0)
    for i, row in enumerate(errors):
        for j, error in enumerate(row):
            text = "–" if np.isnan(error) else f"{error:.0f}"
            panel.text(
                j + 0.5,
                i + 0.5,
                text,
                ha="center",
                va="center",
                size=5,
                color="black" if np.isnan(error) else ink_on(mesh.to_rgba(error)),
            )
        beside = [f"{100 * heat.standard[i]:.1f}"] * bool(np.isfinite(heat.standard[i]))
        beside += [f"{100 * heat.mce[i]:.0f}"] * bool(heat.baseline)
        panel.text(len(row) + 0.2, i + 0.5, "   ".join(beside), va="center", size=5.5)
    ends = np.cumsum([len(list(kinds)) for _, kinds in groupby(heat.families)])
    for end in ends[:-1]:
        panel.axvline(end, color="white", linewidth=2.5)
    names = [plain(pens[model].label) for model in heat.models]
    panel.set_yticks(np.arange(len(names)) + 0.5, names)
    kinds = [kind.replace("_", " ") for kind in heat.kinds]
    panel.set_xticks(np.arange(len(kinds)) + 0.5, kinds, rotation=90)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    said = f"top-1 error (%), mean over severities\n{basis(heat_table(heat))}"
    panel.set_title(said, loc="left")
    head = "mean" + "   mCE" * bool(heat.baseline)
    panel.text(len(kinds) + 0.2, -0.4, head, va="center", size=5.5)
    if heat.baseline:
        base = plain(pens[heat.baseline].label if heat.baseline in pens else heat.baseline)
        panel.set_xlabel(f"mean and mCE over the 15 standard corruptions; mCE of {base}: 100")
    return figure
