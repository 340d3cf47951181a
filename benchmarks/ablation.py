"""What decides the gain of CO-SimCLR: weight of its local term, number of positions, or the MLP?

    python benchmarks/ablation.py results/parts-ablation

Reads the records of a study of `options.w_s` × `options.grid` × `mlp` on one test set and measures
nothing itself. Prints the difference CO - base (same MLP) of each combination with the product's
paired interval over seeds and images, and for each metric what a factor changes in it.
Writes `gain.csv` and the figure `gain.png` into the study's folder `figures`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from gains import BASE, CO, METRICS, gain_lines, report
from matplotlib.figure import Figure
from scipy import stats

from robustbench_coss.analysis.configurations import SeedGroup
from robustbench_coss.figures.styles import styled

MLP = {False: "no MLP", True: "MLP after pooling"}
FACTORS = ("w_s", "positions", "mlp")
ALL = 16  # positions of rf29_resnet18 at 32 px


def recipe_of(group: SeedGroup) -> dict[str, Any]:
    """What its encoders were trained by."""
    recipe: dict[str, Any] = group.model["training"]["recipe"]
    return recipe


def gains(measured: Sequence[SeedGroup]) -> pd.DataFrame:
    """The gain of every combination over the base with the same MLP (`gains.gain_lines`)."""
    trained = [m for m in measured if m.model.get("method") in (BASE, CO) and not m.control]
    bases = {(m.suite, recipe_of(m)["mlp"]): m for m in trained if m.model["method"] == BASE}
    lines = []
    for group in (m for m in trained if m.model["method"] == CO):
        recipe = recipe_of(group)
        grid = recipe["options"]["grid"]
        base = bases.get((group.suite, recipe["mlp"]))
        if base is not None:
            lines += gain_lines(
                base,
                group,
                mlp=recipe["mlp"],
                w_s=recipe["options"]["w_s"],
                positions=ALL if grid is None else grid**2,
            )
    return pd.DataFrame(lines)


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """For each metric and factor the change of the gain from one value to the next, the mean over
    the other factors, with its 95 % interval and two-sided p by Student's t over seeds.

    Without a global term (w_s = 1) there is another method; it counts for the weight alone.
    """
    lines = []
    for metric, factor in itertools.product(METRICS, FACTORS):
        mine = table[(table["metric"] == metric) & table["seed"].notna()]
        mine = mine if factor == "w_s" else mine[mine["w_s"] < 1]
        for before, after in itertools.pairwise(sorted(mine[factor].unique())):
            one, other = (
                mine[mine[factor] == value].groupby("seed")["gain"].mean()
                for value in (before, after)
            )
            test = stats.ttest_1samp(other - one, 0.0)
            low, high = test.confidence_interval(0.95)
            line = {"metric": metric, "factor": factor, "from": before, "to": after}
            line |= {"change": (other - one).mean(), "low": low, "high": high}
            lines.append(line | {"p": test.pvalue, "seeds": len(one)})
    return pd.DataFrame(lines)


def draw(table: pd.DataFrame) -> Figure:
    """The gain against the weight, a line per number of positions; without and with the MLP."""
    with styled("paper", 6.9, {"figure.figsize": (6.9, 3.2)}):
        figure = Figure(layout="constrained")
        panels = figure.subplots(len(MLP), len(METRICS), sharex=True, sharey="row", squeeze=False)
        for row, (mlp, words) in zip(panels, MLP.items(), strict=True):
            for (metric, title), panel in zip(METRICS.items(), row, strict=True):
                mine = table[(table["metric"] == metric) & (table["mlp"] == mlp)]
                mine = mine[mine["seed"].isna()].sort_values("w_s")
                panel.axhline(0, color="0.6", linewidth=0.5)
                counts = sorted(mine["positions"].unique())
                for count, colour, aside in zip(
                    counts, ("0.65", "0.4", "0"), (-1, 0, 1), strict=False
                ):
                    line = mine[mine["positions"] == count]
                    error = [line["gain"] - line["low"], line["high"] - line["gain"]]
                    x = line["w_s"] * np.exp(0.08 * aside)  # beside each other, not on top
                    label = f"{count} position{'s' if count > 1 else ''}"
                    panel.errorbar(
                        x,
                        line["gain"],
                        error,
                        fmt="o-",
                        ms=2.5,
                        color=colour,
                        capsize=1.5,
                        label=label,
                    )
                panel.set_xscale("log")
                weights = sorted(mine["w_s"].unique())
                panel.set_xticks(weights, [f"{w:g}" for w in weights], minor=False)
                panel.minorticks_off()
                if mlp is False:
                    panel.set_title(title)
                else:
                    panel.set_xlabel("weight $w_s$")
            row[0].set_ylabel(f"CO − base (points)\n{words}")
        panels[0, 0].legend()
    return figure


if __name__ == "__main__":
    report(str(__doc__), gains, effects, draw)
