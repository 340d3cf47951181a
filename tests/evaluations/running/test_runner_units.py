"""Suites in units: linked, derived, in any order, by several processes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toy_suite import ToySuite, WordySuite, interrupted, measure

from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.running import runner
from robustbench_coss.evaluations.running.request import Evaluation, Once
from robustbench_coss.evaluations.running.runner import (
    check_run,
    evaluate_run,
    evaluate_stream,
)
from robustbench_coss.evaluations.running.units import Unit
from robustbench_coss.machine.executors import attempt
from robustbench_coss.models.checkpoint import load_checkpoint
from robustbench_coss.records.about import about_of
from robustbench_coss.records.record import Check


def test_a_linked_suite_is_told_its_earlier_outcomes_for_the_same_images(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = measure(run, ["linked"], batch_size=7)
    first, second, third = (cell.outcomes for cell in record.cells[:3])
    assert [c["told"].tolist() for c in (first, second, third)] == [[k] * 60 for k in range(3)]
    plain = measure(run)
    expected = plain.column("noise@0", "correct")
    for cell, alone in zip((first, second, third), plain.cells, strict=True):
        expected = expected & alone.outcomes["correct"]
        assert np.array_equal(cell["correct"], expected)
    # A continued one is told what was measured before the interruption.
    interrupted(run, monkeypatch, "noise@2", suites=["linked"], results=run / "other")
    continued = measure(run, ["linked"], results=run / "other", batch_size=7)
    assert continued.digest() == record.digest()


def test_derived_cells_and_facts_about_the_model_are_in_the_record(run: Path) -> None:
    record = measure(run, ["linked"])
    assert [cell.condition for cell in record.cells] == ["noise@0", "noise@1", "noise@2", "all"]
    assert record.checks == [Check("all there", True, "4 of 4 conditions")]
    assert record.extra == {"colours": ["red", "green"]}


def test_the_suites_wording_and_the_options_it_was_given_are_in_the_record(run: Path) -> None:
    given = {"levels": (0.5, 1), "root": run.parent / "pictures"}
    record = measure(run, ["wordy"], options={"wordy": given, "toy": {"of another": "suite"}})
    assert record.about == {
        "title": "Noise of toys",
        "panels": {"noise": "Noise"},
        "hidden": ["b"],
    }
    assert about_of(record) == WordySuite.about
    assert record.options == {"levels": [0.5, 1], "root": "pictures"}
    plain = measure(run, ["toy"])
    assert (plain.about, plain.options) == ({}, {})


def test_options_that_json_cannot_hold_are_refused_in_one_line(run: Path) -> None:
    with pytest.raises(CossError, match=r"the options of suite 'wordy' cannot be written as JSON"):
        measure(run, ["wordy"], options={"wordy": {"levels": object()}})


def test_cells_come_as_they_are_measured_and_again_from_the_disk(run: Path) -> None:
    def cells() -> Iterator[str]:
        for done in evaluate_stream(run, Evaluation("linked", results=run / "r", device="cpu")):
            assert done.suite == "linked"
            assert done.cell in done.so_far.cells
            yield done.cell.condition

    stream = cells()
    assert next(stream) == "noise@0"
    assert {name for name, _ in ToySuite.log} == {"noise@0"}
    stream.close()  # enough seen
    ToySuite.log.clear()
    assert list(cells()) == ["noise@0", "noise@1", "noise@2", "all"]
    assert {name for name, _ in ToySuite.log} == {"noise@1", "noise@2"}
    ToySuite.log.clear()
    assert list(cells()) == ["noise@0", "noise@1", "noise@2", "all"]
    assert ToySuite.log == []


def test_two_processes_do_not_measure_one_record(run: Path) -> None:
    asked = Evaluation("toy", results=run / "r", device="cpu")
    stream = evaluate_stream(run, asked)
    next(stream)
    with pytest.raises(CossError, match=r"another process is measuring .*toy\.json; wait for it"):
        evaluate_run(run, asked)
    stream.close()
    evaluate_run(run, asked)


def test_units_in_any_order_and_any_number_leave_the_same_record(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "SHARD", 9)
    asked = []

    def backwards(task: Any, items: Any, /) -> Iterator[Any]:
        for item in reversed(list(items)):
            asked.append(item)
            yield item, attempt(task, item)

    threads = torch.get_num_threads()
    try:
        options: dict[str, Any] = {"batch_size": 5, "results": run / "r"}
        spread = [measure(run, [s], executor=backwards, **options) for s in ("toy", "linked")]
        units = [item for item in asked if isinstance(item, Unit)]
        assert {unit.stop - unit.start for unit in units} == {10}  # whole batches
        assert len(units) == 3 * 6 + 6  # the conditions of a linked group stay together
        here = [measure(run, [s], batch_size=5) for s in ("toy", "linked")]
        assert [r.digest() for r in spread] == [r.digest() for r in here]
    finally:
        torch.set_num_threads(threads)


def test_a_model_is_loaded_once(run: Path) -> None:
    loaded: list[Path] = []

    def load(path: Path) -> Any:
        loaded.append(path)
        return load_checkpoint(path)

    once = Once(partial(load, run))
    asked = Evaluation("toy", results=run / "r", device="cpu")
    check_run(once, asked)
    evaluate_run(once, asked)
    assert loaded == [run]
    again = pickle.loads(pickle.dumps(Once(partial(load_checkpoint, run))))
    assert again().sha256 == load_checkpoint(run).sha256
    assert repr(again) == repr(Once(partial(load_checkpoint, run)))
