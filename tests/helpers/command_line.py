"""A tiny recipe, short measurements, and what a refusal looks like."""

from __future__ import annotations

from helpers.bench import Outcome

QUICK = ("--limit", 20, "--probe-train", 64, "--device", "cpu")


def complaint(outcome: Outcome) -> str:
    """The one line that a refused command left, and nothing else."""
    assert outcome.code == 1, outcome
    assert outcome.out == ""
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    return line
