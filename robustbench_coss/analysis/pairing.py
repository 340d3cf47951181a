"""Whether records can be set against each other image by image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robustbench_coss.records.record import Record


def mismatch(records: Sequence[Record]) -> str:
    """Why records of one protocol cannot be paired image by image; "" if they can."""
    first = records[0]
    if any(
        not np.array_equal(r.index, first.index) or not np.array_equal(r.label, first.label)
        for r in records
    ):
        return "the test images are not the same; measure both with the same --limit"
    if len(seeds := {r.seed for r in records}) > 1:
        found = " and ".join(map(str, sorted(seeds)))
        return f"random draws of different seeds, {found}; measure both with the same --seed"
    return ""
