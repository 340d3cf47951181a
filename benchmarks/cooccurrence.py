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

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from robustbench_coss.analysis.configurations import SeedGroup, load_measurements
from robustbench_coss.analysis.controls import standing
from robustbench_coss.analysis.labels import seed_of_model
from robustbench_coss.analysis.numbers import is_share, values_of
from robustbench_coss.figures.pens import FAMILIES
from robustbench_coss.figures.styles import styled
from robustbench_coss.files import write_atomically
from robustbench_coss.records.record import Metric
from robustbench_coss.statistics.contrasts import difference

BASE, CO = "simclr", "co-simclr"
METRICS = {
    "clean_top1": "clean top-1",
    "clean_knn": "kNN top-1",
    "occlusion_internal": "internal occlusion, zeroed",
    "occlusion_random_drop": "internal occlusion, dropped",
}


def level_of(group: SeedGroup) -> float:
    """The level of co-occurrence of the test set, in [0, 1]; a plain `parts` is level 1."""
    name = str(group.records[0].dataset["name"])
    return float(name.partition(":")[2] or 1)


def runs_of(group: SeedGroup, metric: Metric) -> dict[int, np.ndarray]:
    """The values of each image, by the seed of the training."""
    return {int(seed_of_model(r.model)): values_of(r, metric) for r in group.records}


def gains(measured: Sequence[SeedGroup]) -> pd.DataFrame:
    """A line per metric, level and seed, and one per metric and level with `seed` empty for the
    difference over all seeds with its interval; in points where the metric is a share."""
    lines = []
    methods = {(m.model.get("method"), m.suite, level_of(m)): m for m in measured if not m.control}
    for (method, suite, level), base in sorted(methods.items(), key=str):
        other = methods.get((CO, suite, level))
        if method != BASE or other is None:
            continue
        for metric in base.records[0].metrics:
            if metric.name not in METRICS:
                continue
            a, b = runs_of(other, metric), runs_of(base, metric)
            seeds = sorted(a.keys() & b.keys())
            share = is_share(base.records[0], metric.column)
            for seed, chosen in [(s, [s]) for s in seeds] + [(None, seeds)]:
                runs = ([r[s] for s in chosen] for r in (a, b))
                found = difference(*runs, share, (chosen, chosen))
                lines.append(
                    {
                        "metric": metric.name,
                        "level": level,
                        "seed": seed,
                        "base": 100 * np.mean([b[s].mean() for s in chosen]),
                        "co": 100 * np.mean([a[s].mean() for s in chosen]),
                        "gain": 100 * found.value,
                        "low": 100 * found.low,
                        "high": 100 * found.high,
                    }
                )
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


def main() -> None:
    """Print the tables and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("results", type=Path, help="folder of the study's records")
    folder: Path = parser.parse_args().results
    measured = load_measurements(folder)
    table = gains(measured)
    if table.empty:
        raise SystemExit(f"{folder} holds no {BASE} and {CO} measured on the same test set")
    for group in (m for m in measured if m.suite == "clean"):
        if reason := standing([group], measured).reason:
            print(f"{group.test_set.label}: {reason}")
    found = slopes(table)
    shown = table[table["seed"].isna()].drop(columns="seed")
    for lines in (shown, found):
        print(lines.to_string(index=False, float_format=lambda x: f"{x:.3g}"), end="\n\n")
    write_atomically(folder / "gain.csv", table.to_csv(index=False, float_format="%.4g"))
    with styled("paper"):
        (folder / "figures").mkdir(exist_ok=True)
        draw(table).savefig(folder / "figures" / "gain.png", dpi=300)


if __name__ == "__main__":
    main()
