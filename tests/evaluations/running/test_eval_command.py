"""`coss-bench eval`, `list` and `doctor` with plug-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from helpers.toy_suite import ToySuite
from typer.testing import CliRunner

from robustbench_coss.cli.doctor import doctor
from robustbench_coss.cli.evaluate import evaluate
from robustbench_coss.cli.list import list_
from robustbench_coss.errors import CossError
from robustbench_coss.records.record import find_records

app = typer.Typer()
app.command("eval")(evaluate)
app.command("list")(list_)
app.command("doctor")(doctor)


def command(*arguments: object) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(a) for a in arguments])


def test_eval_prints_headline_numbers_chance_level_and_the_next_command(run: Path) -> None:
    results = run.parent / "res"
    outcome = command("eval", run, "--suite", "toy", "--results", results, "--device", "cpu")
    assert outcome.exit_code == 0, outcome.output
    ((path, record),) = find_records(results)
    top1 = 100 * np.mean([c.outcomes["correct"].mean() for c in record.cells])
    assert f"Toy top-1 {top1:.1f} %" in outcome.output
    assert "Toy logit" in outcome.output
    assert "Hidden" not in outcome.output
    assert "chance 33.3 %" in outcome.output
    assert "check failed: all there: 3 of 4 conditions" in outcome.output
    assert str(path.parent) in outcome.output.replace("\n", "")
    assert f"coss-bench leaderboard --results {results}" in outcome.output.replace("\n", "")


def test_eval_looks_at_every_run_before_it_measures_one(run: Path) -> None:
    outcome = command("eval", run, run.parent / "typo", "--suite", "toy", "--results", run / "r")
    assert isinstance(outcome.exception, CossError)
    assert "typo does not exist" in str(outcome.exception)
    assert ToySuite.log == []


def test_eval_stops_before_measuring_if_the_data_are_missing(run: Path) -> None:
    outcome = command(
        *("eval", run, "--suite", "toy", "--results", run / "r", "--data-root", run / "empty")
    )
    assert isinstance(outcome.exception, CossError)
    assert "build it with `make toys`" in str(outcome.exception)


@pytest.mark.parametrize("option", ["--limit", "--batch-size", "--probe-train"])
def test_eval_refuses_counts_below_one_by_the_name_of_the_option(run: Path, option: str) -> None:
    outcome = command("eval", run, option, "0")
    assert isinstance(outcome.exception, CossError)
    assert f"{option} must be at least 1, got 0" in str(outcome.exception)


def test_an_interrupted_eval_says_how_to_continue_and_exits_130(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToySuite, "interrupt_at", "noise@1")
    outcome = command("eval", run, "--suite", "toy", "--results", run / "r", "--device", "cpu")
    assert outcome.exit_code == 130
    assert "run the same command again to continue" in outcome.output


def test_list_shows_names_with_the_package_they_come_from() -> None:
    lines = [line.split() for line in command("list", "suites", "encoders").output.splitlines()]
    packages = {words[0]: words[-1] for words in lines if len(words) > 1}
    assert (packages["toy"], packages["toy-encoder"]) == ("coss-toys", "coss-toys")
    assert packages["clean"] == "robustbench-coss"


def test_doctor_exits_1_only_for_what_is_required(tmp_path: Path) -> None:
    where = ("--data-root", tmp_path / "none", "--results", tmp_path / "results")
    healthy = command("doctor", *where)
    assert healthy.exit_code == 0, healthy.output
    assert "– data set cifar10" in healthy.output
    (tmp_path / "results").write_text("")
    broken = command("doctor", *where)
    assert broken.exit_code == 1
    assert "broken: results folder" in broken.output
