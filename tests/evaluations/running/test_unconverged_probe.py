"""A probe that stopped half a point or more short of its optimum marks the rows it measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.bench import Bench
from helpers.toy_suite import measure
from torch import Tensor

from robustbench_coss.evaluations.probes import logistic, sgd
from robustbench_coss.evaluations.probes.linear import ProbeConfig

CHECK = "the linear probe is converged"


def guesses(features: Tensor, labels: Tensor, classes: int, *_: Any, **__: Any) -> Any:
    """What SGD would give if it did nothing: always the first class."""
    return torch.zeros(classes, features.shape[1]), torch.zeros(classes)


def test_a_row_is_marked_by_what_the_probe_lost(
    run: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sgd, "fit", guesses)
    record = measure(run, probe=ProbeConfig("sgd"))
    probe = record.model["probe"]
    assert probe["validation_top1"] == pytest.approx(1 / 3)  # three classes in turn
    lost = 100 * (probe["optimum_top1"] - probe["validation_top1"])
    assert lost > 0.5
    (check,) = [check for check in record.checks if check.name == CHECK]
    assert not check.passed
    assert check.detail == f"{lost:.1f} points below the optimum on validation images"
    outcome = bench("leaderboard", "--results", run.parent.parent / "results")
    assert outcome.code == 0, outcome.err
    said = " ".join((outcome.out + outcome.err).split())
    assert "failed sanity check" in said
    assert f"{CHECK}: {check.detail}" in said


def test_a_row_is_marked_by_a_solver_that_stopped_early(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minimise = logistic.minimise

    def early(*arguments: Any, **options: Any) -> logistic.Solution:
        return replace(minimise(*arguments, **options), gap=0.01)

    monkeypatch.setattr(logistic, "minimise", early)
    record = measure(run)
    (check,) = [check for check in record.checks if check.name == CHECK]
    assert not check.passed
    assert check.detail == "training loss 0.01 nats above the optimum"


@pytest.mark.parametrize("kind", ["logistic", "sgd"])
def test_a_probe_near_its_optimum_marks_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    record = measure(run, probe=ProbeConfig(kind))
    probe = record.model["probe"]
    lost = probe.get("optimum_top1", 0.0) - probe["validation_top1"]
    marked = any(check.name == CHECK for check in record.checks)
    assert marked == ("optimum_top1" in probe and lost > 0.005)
