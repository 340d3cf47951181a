"""Does the gain of CO-SimCLR over SimCLR grow with how far parts tell of each other?

    python benchmarks/cooccurrence.py results/parts-cooccurrence

Reads the records of a study over the levels of `parts:LEVEL` and measures nothing itself. For each
level it prints the difference CO - base with the product's paired interval over seeds and images,
and for each metric the slope of the difference over the levels: a least-squares line per seed, and
Student's t over the slopes of the seeds, which are independent where the levels of one seed are not
(one seed gives all levels the same initial weights and views). Writes `gain.csv` and the figure
`gain.png` into the study's folder `figures`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from gains import BASE, CO, METRICS, gain_lines, report
from matplotlib.figure import Figure
from scipy import stats

from robustbench_coss.analysis.configurations import SeedGroup
from robustbench_coss.figures.pens import FAMILIES
from robustbench_coss.figures.styles import styled


def level_of(group: SeedGroup) -> float:
    """The level of co-occurrence of the test set, in [0, 1]; a plain `parts` is level 1."""
    name = str(group.records[0].dataset["name"])
    return float(name.partition(":")[2] or 1)


def gains(measured: Sequence[SeedGroup]) -> pd.DataFrame:
    """The gain at every level (`gains.gain_lines`)."""
    methods = {(m.model.get("method"), m.suite, level_of(m)): m for m in measured if not m.control}
    lines = []
    for (method, suite, level), base in sorted(methods.items(), key=str):
        other = methods.get((CO, suite, level))
        if method == BASE and other is not None:
            lines += gain_lines(base, other, level=level)
    return pd.DataFrame(lines)


def slopes(table: pd.DataFrame) -> pd.DataFrame:
    """For each metric the mean slope of the gain over seeds, in points from level 0 to 1, with its
    95 % interval and two-sided p by Student's t."""
    lines = []
    for metric in METRICS:
        mine = table[(table["metric"] == metric) & table["seed"].notna()]
        each = [np.polyfit(g["level"], g["gain"], 1)[0] for _, g in mine.groupby("seed")]
        test = stats.ttest_1samp(each, 0.0)
        low, high = test.confidence_interval(0.95)
        line = {"metric": metric, "slope": np.mean(each), "low": low, "high": high}
        lines.append(line | {"p": test.pvalue, "seeds": len(each)})
    return pd.DataFrame(lines)


def draw(table: pd.DataFrame) -> Figure:
    """Accuracy of both methods, and the gain, against the level; seeds are dots."""
    with styled("paper", 6.9, {"figure.figsize": (6.9, 2.9)}):
        figure = Figure(layout="constrained")
        panels = figure.subplots(2, len(METRICS), sharex=True, sharey="row")
        for (metric, title), (top, bottom) in zip(METRICS.items(), panels.T, strict=True):
            mine = table[table["metric"] == metric]
            each, mean = mine[mine["seed"].notna()], mine[mine["seed"].isna()]
            for column, colour, face, name in (
                ("base", FAMILIES["SimCLR"][0], "white", "SimCLR"),
                ("co", FAMILIES["SimCLR"][0], FAMILIES["SimCLR"][0], "CO-SimCLR"),
            ):
                top.plot(mean["level"], mean[column], color=colour, label=name)
                top.plot(each["level"], each[column], "o", color=colour, mfc=face, ms=2.5)
            top.set_title(title)
            error = [mean["gain"] - mean["low"], mean["high"] - mean["gain"]]
            bottom.axhline(0, color="0.6", linewidth=0.5)
            bottom.errorbar(mean["level"], mean["gain"], error, color="0.2", capsize=1.5)
            bottom.plot(each["level"], each["gain"], "o", color="0.5", ms=2)
            bottom.set_xlabel("co-occurrence $r$")
        panels[0, 0].set_ylabel("top-1 (%)")
        panels[1, 0].set_ylabel("CO − base (points)")
        panels[0, 0].legend()
    return figure


if __name__ == "__main__":
    report(str(__doc__), gains, slopes, draw)
