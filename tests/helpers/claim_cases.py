"""Measurements from which claims are judged, made up or simulated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from helpers import simulate
from robustbench_coss.claims.questions import Question
from robustbench_coss.claims.verdicts import Outcome, Row
from robustbench_coss.records.record import Record, find_records


def outcome_of(outcomes: Iterable[Outcome], claim: str) -> Outcome:
    (found,) = (o for o in outcomes if o.claim.key == claim)
    return found


def top1(
    shares: Sequence[float], method: str, crop: float | None = None, n: int = 200
) -> list[Record]:
    """Clean records of one configuration, a seed per share; whichever images are right."""
    training: dict[str, Any] = {"options": {"w_s": 0.3} if method.startswith("co-") else {}}
    if crop is not None:
        training["views"] = {"min_crop": crop}
    return [
        simulate.clean(
            share, n, method=method, seed=seed, name=f"{method}-{crop}-{seed}", training=training
        )
        for seed, share in enumerate(shares)
    ]


def with_options(results: Path) -> None:
    """Give simulated records the options that tell a CO- model from its base method."""
    for path, record in list(find_records(results)):
        co = record.model["method"].startswith("co-")
        record.model["training"]["options"] = {"w_s": 0.3} if co else {}
        path.unlink()
        simulate.save(results, record)


def row(verdict: str, decides: bool = True) -> Row:
    question = Question("pair", "m", "c", "", "points", (), lambda: NotImplemented, decides)
    return Row(question, 0.1, 0.0, 0.2, 0.01, 0.02, verdict, "t")
