"""Whether records can be set against each other image by image, and which seeds coincide."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from robustbench_coss.analysis.labels import seed_of_model
from robustbench_coss.records.record import Record


def mismatch(records: Sequence[Record]) -> str:
    """Why records of one protocol cannot be paired image by image; "" if they can."""
    first = records[0]
    if any(
        not np.array_equal(r.index, first.index) or not np.array_equal(r.label, first.label)
        for r in records
    ) or any(r.dataset.get("others") != first.dataset.get("others") for r in records):
        return "the test images are not the same; measure both with the same --limit"
    if len(seeds := {r.seed for r in records}) > 1:
        found = " and ".join(map(str, sorted(seeds)))
        return f"random draws of different seeds, {found}; measure both with the same --seed"
    return ""


def seeds_of(records: Sequence[Record]) -> list[Hashable]:
    """What runs of a configuration were drawn with: equal where runs of others share it.

    The same seed gives the same initial weights, order and views. A run that states none shares it
    with no other.
    """
    found = [(seed_of_model(r.model), r.model["checkpoint_sha256"]) for r in records]
    return [sha256 if seed is None else seed for seed, sha256 in found]
