"""Records of the corruption suite with errors of one's choice."""

from __future__ import annotations

import numpy as np

from helpers import simulate
from robustbench_coss.evaluations.corruptions.reference import GROUPS
from robustbench_coss.records.record import Cell, Record

FAMILY = {name: family for family, names in GROUPS.items() for name in names}


def with_errors(clean: float, errors: dict[str, float], dataset: str = "imagenet") -> Record:
    """A record of 1,000 images whose errors are the given ones at every severity."""

    def column(error: float) -> dict[str, np.ndarray]:
        return {"correct": np.arange(1000) >= round(1000 * error)}

    cells = [Cell("clean", "", 0.0, column(clean))]
    for name, error in errors.items():
        cells += [
            Cell(f"{name}@{s}", FAMILY[name], s, column(error), kind=name) for s in range(1, 6)
        ]
    return simulate.record(
        cells,
        [],
        suite="corruption",
        dataset=dataset,
        classes=1000 if dataset == "imagenet" else 10,
        config={"backend": "fast", "constants": "imagenet-c"},
    )
