"""Records whose curves are known."""

from __future__ import annotations

from helpers import simulate
from robustbench_coss.records.record import Axis, Cell

BYOL = "BYOL · rf29_resnet18 ×0.25"


def pooled(hits: dict[float, int], seed: int = 0, n: int = 100) -> simulate.Record:
    """A redundancy record of known numbers of right answers by share pooled."""
    cells = [
        Cell(f"k@{share}", "" if share == 1 else "pooled", share, {
            "correct": simulate.exactly(count / n, n)
        })
        for share, count in hits.items()
    ]  # fmt: skip
    axis = Axis("share of local representations pooled")
    return simulate.record(cells, [], suite="redundancy", axis=axis, seed=seed)
