"""The request for an evaluation, and what is said of its progress."""

from __future__ import annotations

import io
import re
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.toy_suite import interrupted, measure
from rich.console import Console

from robustbench_coss import registry
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes.linear import ProbeConfig
from robustbench_coss.evaluations.progress import ConsoleProgress
from robustbench_coss.evaluations.protocol import make_suite
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import suite_names


def test_a_request_is_frozen_and_normalised() -> None:
    request = Evaluation("clean", results="r")
    assert (request.suites, request.results) == (("clean",), Path("r"))
    with pytest.raises(FrozenInstanceError):
        request.seed = 1  # type: ignore[misc]


def test_an_option_that_a_suite_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(CossError, match=r"suite 'corruption' has no option 'sped'; it has: back"):
        make_suite("corruption", {"sped": 1})
    with pytest.raises(CossError, match=r"suite 'toy' has no option 'sped'; it has none"):
        make_suite("toy", {"sped": 1})


@pytest.mark.parametrize("option", [{"limit": 0}, {"batch_size": 0}, {"limit": -5}])
def test_counts_below_one_are_refused(run: Path, option: dict[str, int]) -> None:
    with pytest.raises(CossError, match="must be at least 1, got"):
        measure(run, **option)


@pytest.mark.parametrize("value", [1e3, "3", float("nan"), [2]])
@pytest.mark.parametrize("name", ["limit", "batch_size", "workers", "seed"])
def test_counts_that_are_no_whole_numbers_are_refused(name: str, value: Any) -> None:
    with pytest.raises(CossError, match=f"{name} must be .*, got {re.escape(repr(value))}$"):
        Evaluation(**{name: value})
    for probe in ("batch_size", "epochs", "l2_values", "max_train"):
        with pytest.raises(CossError, match=f"probe {probe} must be a whole number, got"):
            ProbeConfig(**{probe: value})
    assert Evaluation(limit=np.int64(3)).limit == 3  # type: ignore[arg-type]


def test_all_stands_for_every_suite_with_the_projects_own_first_in_order() -> None:
    names = suite_names(["all"])
    own = ["clean", "corruption", "occlusion", "adversarial", "crop", "redundancy", "rf"]
    assert names[: len(own)] == own
    assert {"toy", "bad"} <= set(names)
    assert sorted([*names, "ood", "shift"]) == registry.names("suite")  # which needs what few have


def test_suites_may_be_repeated_or_separated_by_commas_and_count_once() -> None:
    assert suite_names(["toy, clean", "toy"]) == ["toy", "clean"]


def test_an_unknown_suite_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(CossError, match="did you mean corruption"):
        suite_names(["toy,coruption"])
    with pytest.raises(CossError, match="no suite was named"):
        suite_names([","])


def test_progress_off_a_terminal_prints_lines_sparsely() -> None:
    text = io.StringIO()
    with ConsoleProgress(Console(file=text), every=0.0) as progress:
        progress.plan(10)
        progress.show("model toy: noise@0 (1/3)")
        progress.advance(5)
    assert "model toy: noise@0 (1/3): 5 of 10 images" in text.getvalue()
    quiet = io.StringIO()
    with ConsoleProgress(Console(file=quiet), every=60.0) as progress:
        progress.plan(10)
        progress.advance(10)
    assert quiet.getvalue() == ""


def test_progress_counts_what_is_planned_exactly(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(run, monkeypatch, "noise@1")
    progress = ConsoleProgress(Console(file=io.StringIO()))
    with progress:
        measure(run, progress=progress)
    assert progress.done == progress.total == 2 * 60  # the probe is cached, one condition is done
