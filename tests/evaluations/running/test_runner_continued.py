"""Evaluations that were interrupted, finished before, or changed since."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toy_suite import ToySuite, interrupted, make_run, measure

from robustbench_coss.evaluations.probes.linear import ProbeConfig
from robustbench_coss.evaluations.running import draft, job
from robustbench_coss.evaluations.running.places import partial_path
from robustbench_coss.records.record import (
    find_records,
    read_record,
)


def test_an_interrupted_evaluation_continues_at_the_next_condition(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(run, monkeypatch, "noise@1")
    assert {name for name, _ in ToySuite.log} == {"noise@0"}
    ToySuite.log.clear()
    continued = measure(run)
    assert {name for name, _ in ToySuite.log} == {"noise@1", "noise@2"}
    undisturbed = measure(run, results=run.parent / "elsewhere")
    assert continued.digest() == undisturbed.digest()
    assert continued.digest() != measure(run, seed=1).digest()


def test_the_partial_record_is_removed_when_the_record_is_complete(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = run.parent.parent / "results"
    interrupted(run, monkeypatch, "noise@2")
    (partial,) = results.rglob("*.partial.json")
    assert [c.condition for c in read_record(partial).cells] == ["noise@0", "noise@1"]
    assert list(find_records(results)) == []
    measure(run)
    ((path, _),) = find_records(results)
    assert partial == partial_path(path)
    assert not partial.exists()


@pytest.mark.parametrize("change", ["seed", "limit", "config", "probe", "versions", "damage"])
def test_a_partial_record_of_another_measurement_is_not_continued(
    run: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    interrupted(run, monkeypatch, "noise@2")
    ToySuite.log.clear()
    options: dict[str, Any] = {}
    if change == "seed":
        options["seed"] = 1
    elif change == "limit":
        options["limit"] = 12
    elif change == "config":
        monkeypatch.setattr(ToySuite, "settings", {"noise": "other"})
    elif change == "probe":
        options["probe"] = ProbeConfig(l2_values=6)
    elif change == "versions":
        monkeypatch.setattr(draft, "versions", lambda: {"python": "4.0"})
    else:
        (partial,) = (run.parent.parent / "results").rglob("*.partial.json")
        partial.write_text(partial.read_text()[:200])
    measure(run, **options)
    assert {name for name, _ in ToySuite.log} == {"noise@0", "noise@1", "noise@2"}


def test_a_record_continued_on_another_device_names_both(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "device_name", lambda _: "abacus")
    interrupted(run, monkeypatch, "noise@1")
    monkeypatch.setattr(job, "device_name", lambda _: "slide rule")
    assert measure(run).device == "abacus; slide rule"


def test_what_is_up_to_date_is_measured_again_only_when_forced(run: Path) -> None:
    first = measure(run)
    ToySuite.log.clear()
    ToySuite.events.clear()
    again = measure(run)
    assert ToySuite.log == []
    assert ToySuite.events == []
    assert again.created == first.created
    forced = measure(run, force=True)
    assert len(ToySuite.log) == 3
    assert forced.digest() == first.digest()


@pytest.mark.parametrize("change", ["checkpoint", "version", "damage"])
def test_a_record_that_no_longer_holds_is_measured_again(
    run: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    measure(run)
    ToySuite.log.clear()
    if change == "checkpoint":
        make_run(run, method="other")
    elif change == "version":
        monkeypatch.setattr(ToySuite, "version", 2)
    else:
        ((path, _),) = find_records(run.parent.parent / "results")
        path.write_text(path.read_text()[:300])
    record = measure(run)
    assert len(ToySuite.log) == 3
    assert record.complete


def test_an_up_to_date_record_does_not_need_the_probe_again(run: Path) -> None:
    measure(run)
    (probe,) = (run.parent.parent / "results" / "probes").iterdir()
    probe.unlink()
    measure(run)
    assert not probe.exists()


def test_suites_are_closed_after_success_and_after_an_interrupt(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(run, monkeypatch, "noise@1")
    assert ToySuite.events == ["prepare", "close"]
    measure(run)
    assert ToySuite.events == ["prepare", "close"] * 2


def test_a_record_of_schema_2_is_still_up_to_date(run: Path) -> None:
    results = run.parent.parent / "results"
    measure(run)
    ((path, _),) = find_records(results)
    older = json.loads(path.read_text()) | {"schema": 2}
    del older["about"], older["options"]
    path.write_text(json.dumps(older))
    ToySuite.log.clear()
    measure(run)
    assert ToySuite.log == []


def test_force_measures_with_a_probe_that_is_trained_again(run: Path) -> None:
    from safetensors.torch import load_file

    results = run.parent.parent / "results"
    measure(run)
    (cached,) = (results / "probes").iterdir()
    whole, written = load_file(cached), cached.stat().st_mtime_ns
    measure(run, force=True)
    assert cached.stat().st_mtime_ns != written
    assert all(torch.equal(tensor, whole[name]) for name, tensor in load_file(cached).items())
