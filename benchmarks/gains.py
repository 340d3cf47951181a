"""What a CO- form gains over its base, by seed and over seeds, from the records of a study."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from robustbench_coss.analysis.configurations import SeedGroup, load_measurements
from robustbench_coss.analysis.controls import standing
from robustbench_coss.analysis.labels import seed_of_model
from robustbench_coss.analysis.numbers import is_share, values_of
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


def runs_of(group: SeedGroup, metric: Metric) -> dict[int, np.ndarray]:
    """The values of each image, by the seed of the training."""
    return {int(seed_of_model(r.model)): values_of(r, metric) for r in group.records}


def gain_lines(base: SeedGroup, other: SeedGroup, **about: Any) -> list[dict[str, Any]]:
    """A line per metric and seed, and one per metric with `seed` None for the difference over all
    seeds with its 95 % interval; in points where the metric is a share.

    Args:
        about: further columns, the same in every line.
    """
    lines = []
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
                    **about,
                    "seed": seed,
                    "base": 100 * np.mean([b[s].mean() for s in chosen]),
                    "co": 100 * np.mean([a[s].mean() for s in chosen]),
                    "gain": 100 * found.value,
                    "low": 100 * found.low,
                    "high": 100 * found.high,
                }
            )
    return lines


def report(
    about: str,
    gains: Callable[[Sequence[SeedGroup]], pd.DataFrame],
    summary: Callable[[pd.DataFrame], pd.DataFrame],
    draw: Callable[[pd.DataFrame], Figure],
) -> None:
    """A script about the study whose folder is given to it: prints both tables, without the lines
    of single seeds, and which configurations do not stand above their controls; writes `gain.csv`
    and the figure `gain.png`.

    Args:
        about: the script's docstring.
        gains: lines of `gain_lines` from the measurements of a study.
        summary: what follows from all of these lines.
        draw: their figure.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("results", type=Path, help="folder of the study's records")
    folder: Path = parser.parse_args().results
    measured = load_measurements(folder)
    table = gains(measured)
    if table.empty:
        raise SystemExit(f"{folder} holds no {BASE} and {CO} measured on the same test set")
    for group in (m for m in measured if m.suite == "clean" and not m.control):
        if reason := standing([group], measured).reason:
            print(f"{group.test_set.label}: {reason}")
    for lines in (table[table["seed"].isna()].drop(columns="seed"), summary(table)):
        print(lines.to_string(index=False, float_format=lambda x: f"{x:.3g}"), end="\n\n")
    write_atomically(folder / "gain.csv", table.to_csv(index=False, float_format="%.4g"))
    with styled("paper"):
        (folder / "figures").mkdir(exist_ok=True)
        draw(table).savefig(folder / "figures" / "gain.png", dpi=300)
