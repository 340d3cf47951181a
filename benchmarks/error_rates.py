"""How often intervals miss and claims are decided where nothing differs; minutes on one core.

    python benchmarks/error_rates.py [STUDIES]

Coverage of the intervals of worst cases near 0, and simulated studies without any effect, judged by
the call that `coss-bench claims` makes. docs/claims.md and docs/results.md quote what it prints.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.null_studies import Study

from robustbench_coss.statistics.intervals import agresti_coull, bootstrap_mean


def coverage(cases: int) -> None:
    """Of 500 images so many are expected to be right under one to five of five budgets."""
    for expected in (0, 1, 2):
        draw = np.random.default_rng(expected)
        truth, held, resampled = expected / 500 * 3 / 5, 0, 0
        for _ in range(cases):
            values = (draw.random(500) < expected / 500) * draw.integers(1, 6, 500) / 5
            low, high = agresti_coull(values)
            held += low <= truth <= high and high > low
            low, high = bootstrap_mean(values)
            resampled += low <= truth <= high and high > low
        print(
            f"{expected} of 500 expected: {100 * held / cases:.1f} % of intervals hold the mean, "
            f"{100 * resampled / cases:.1f} % of a bootstrap's"
        )


def claims(studies: int) -> None:
    """Share of studies without an effect in which any claim is decided."""
    pair, pairs = ("byol", "co-byol"), ("byol", "co-byol", "dino", "co-dino")
    for about, methods, crops, seeds, options in (
        ("one pair, 4 crops, 3 seeds", pair, (0.08, 0.3, 0.6, 1.0), 3, {"shared": 0.9}),
        ("two pairs, 2 crops, 3 seeds", pairs, (0.08, 1.0), 3, {"shared": 0.9}),
        ("two pairs, 2 crops, 5 seeds", pairs, (0.08, 1.0), 5, {"shared": 0.9}),
        ("seeds that have nothing in common", pairs, (0.08, 1.0), 3, {"shared": 0.0}),
        ("variants alike (0.8)", pairs, (0.08, 1.0), 3, {"kinship": 0.8, "seeds": 0.15}),
    ):
        runs = dict.fromkeys(itertools.product(methods, crops), seeds)
        study = Study(runs, **{"seeds": 0.6} | options)
        share = study.decided(np.random.default_rng(1), studies)
        print(f"{about}: {100 * share:.1f} % of {studies} studies decide a claim", flush=True)


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    coverage(5 * count)
    claims(count)
