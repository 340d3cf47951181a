"""A real, tiny run that is measured, bundled, verified, and flattered in every way."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from helpers import simulate
from helpers.bench import Outcome
from helpers.bundles import ADVERSARIAL, HERE, PLAN, measure, with_record, with_records
from safetensors.torch import load_file, save_file

from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes.linear import ProbeConfig
from robustbench_coss.evaluations.protocol import Subject, make_suite
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.evaluations.submissions import again
from robustbench_coss.evaluations.submissions import verify as verification
from robustbench_coss.evaluations.submissions.bundle import MANIFEST, open_bundle
from robustbench_coss.evaluations.submissions.report import Report
from robustbench_coss.evaluations.submissions.submit import submit
from robustbench_coss.evaluations.submissions.verify import Plan, verify
from robustbench_coss.models.checkpoint import build_encoder, load_checkpoint
from robustbench_coss.records.migrate import migrate
from robustbench_coss.records.record import Record, from_json
from robustbench_coss.seeds import permutation


@pytest.fixture(scope="module")
def attacked(run: Path) -> Path:
    return measure(run, run.parent / "more", "clean", "adversarial", "redundancy")


def wrong(report: Report) -> list[str]:
    return [finding.text for finding in report.findings() if not finding.ok]


# ---- honest bundles ----


def test_an_honest_bundle_is_reproduced_to_the_last_bit(bundle: Path) -> None:
    report = verify(bundle, PLAN)
    assert report.reproduced, wrong(report)
    assert report.exact
    assert report.notes == ["device and versions are those recorded"]
    titles = [cell.title for cell in report.cells]
    assert "clean clean" in titles
    assert sum(title.startswith("crop ") for title in titles) == 5


def test_a_condition_is_drawn_with_those_of_its_group_that_it_builds_on(attacked: Path) -> None:
    suite = make_suite("adversarial", ADVERSARIAL)
    encoder = build_encoder("rf29_resnet18", size=32, width=1 / 16)
    conditions = suite.conditions(Subject(encoder, torch.nn.Linear(encoder.dim, 10)))
    record = from_json(open_bundle(attacked).json("records/parts/adversarial.json"), "a.json")
    sizes = set()
    for seed in range(30):
        drawn = again._drawn(suite, conditions, again.Sample(seed, cells=1), record)
        (group,) = {c.group for c in drawn}
        assert drawn == [c for c in conditions if c.group == group][: len(drawn)]
        sizes.add(len(drawn))
    assert sizes >= {1, 2}


def test_every_condition_can_be_drawn_and_a_new_probe_gives_the_same(attacked: Path) -> None:
    report = verify(attacked, replace(PLAN, cells=100, retrain_probe=True))
    assert report.reproduced, wrong(report)
    assert report.exact
    anew = [cell.title for cell in report.cells if cell.title.endswith("(probe trained anew)")]
    assert 2 * len(anew) == len(report.cells)
    measured = sum(
        sum(not c.condition.startswith("worst") for c in from_json(content, "r.json").cells)
        for name in open_bundle(attacked).names
        if name.startswith("records/")
        for content in [open_bundle(attacked).json(name)]
    )
    assert len(anew) == measured


def test_other_batches_which_round_differently_reproduce_as_well(bundle: Path) -> None:
    assert verify(bundle, replace(PLAN, here=replace(HERE, batch_size=37))).reproduced


def test_the_seed_draws_the_conditions(bundle: Path) -> None:
    def drawn(seed: int) -> list[str]:
        found = verify(bundle, Plan(seed=seed, cells=2, here=HERE)).cells
        return [cell.title for cell in found if cell.title.startswith("crop")]

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(3)}) > 1


def test_an_encoder_beside_the_bundle_is_used(run: Path, tmp_path: Path) -> None:
    path, _ = submit(str(run), run.parent / "few", tmp_path / "b.zip")
    assert verify(path, replace(PLAN, cells=1), str(run)).reproduced
    with pytest.raises(CossError, match="holds no encoder; pass the one with the SHA-256"):
        verify(path, PLAN)


# ---- dishonest ones ----


def flattered(record: Record, nested: bool = False) -> Record:
    """5 % of the wrong answers of every condition turned right, at random or the same images."""
    suite = make_suite(record.suite, ADVERSARIAL if record.suite == "adversarial" else {})
    cells = [c for c in record.cells if not c.condition.startswith("worst")]
    for i, cell in enumerate(cells):
        misses = np.flatnonzero(~cell.outcomes["correct"])
        order = permutation(len(misses), "flatter", 0 if nested else i).numpy()
        cell.outcomes["correct"] = cell.outcomes["correct"].copy()
        cell.outcomes["correct"][misses[order[: math.ceil(0.05 * len(misses))]]] = True
    record.cells = [*cells, *suite.derived(cells)]
    return record


@pytest.mark.parametrize("suite", ["clean", "crop", "adversarial"])
def test_five_percent_of_the_wrong_ones_turned_right_do_not_pass(
    bundle: Path, attacked: Path, tmp_path: Path, suite: str
) -> None:
    source = attacked if suite == "adversarial" else bundle
    report = verify(with_record(source, tmp_path / "b.zip", suite, flattered), PLAN)
    assert not report.reproduced
    assert all(suite in text or "all" in text for text in wrong(report))


def test_they_do_not_pass_as_rounding_of_another_device_either(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "device_name", lambda device: "another")
    honest = verify(bundle, PLAN)
    assert honest.reproduced
    assert honest.notes[0].endswith("; measured again on another")
    report = verify(with_record(bundle, tmp_path / "b.zip", "crop", flattered), PLAN)
    assert any(text.startswith("crop correct, 5 cells together") for text in wrong(report))


def test_only_what_needs_a_trained_network_may_differ_more_on_another_device(
    attacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The surrogate of a transferred attack is trained in the measurement."""

    def shift(name: str) -> Callable[[Record], None]:
        def change(record: Record) -> None:
            (cell,) = (c for c in record.cells if c.condition.startswith(name))
            right = cell.outcomes["correct"].copy()
            # Five up, five down: a share of 5 % without a direction.
            right[np.flatnonzero(right)[:5]] = False
            right[np.flatnonzero(~cell.outcomes["correct"])[:5]] = True
            cell.outcomes["correct"] = right

        return change

    every = replace(PLAN, cells=100)
    noise = with_record(attacked, tmp_path / "n.zip", "adversarial", shift("noise-linf@1/255"))
    both = with_record(noise, tmp_path / "t.zip", "adversarial", shift("transfer"))
    here = wrong(verify(both, every))
    monkeypatch.setattr(verification, "device_name", lambda device: "another")
    elsewhere = wrong(verify(both, every))
    for found in (here, elsewhere):
        assert any("noise-linf@1/255" in text for text in found)
    assert any("transfer" in text for text in here)
    assert not any("transfer" in text for text in elsewhere)


def test_metadata_that_is_not_the_encoders_does_not_pass(bundle: Path, tmp_path: Path) -> None:
    def boast(record: Record) -> None:
        record.model["training"] = {"seed": 0, "epochs": 1000}
        record.model["mlp"] = True

    with pytest.raises(CossError, match="describes another model than other records do"):
        verify(with_record(bundle, tmp_path / "b.zip", "clean", boast), PLAN)
    report = verify(with_records(bundle, tmp_path / "b.zip", boast), replace(PLAN, cells=1))
    assert wrong(report) == [
        f"records/parts/{suite}.json: mlp, training of the model are not those of encoder and probe"
        for suite in ("clean", "crop")
    ]


def test_derived_cells_checks_metrics_and_facts_are_held_to_the_outcomes(
    attacked: Path, tmp_path: Path
) -> None:
    def polish(record: Record) -> None:
        worst = next(c for c in record.cells if c.condition.startswith("worst"))
        worst.outcomes["correct"] = ~worst.outcomes["correct"]
        record.checks[0].passed = not record.checks[0].passed
        record.metrics = record.metrics[1:]

    one = replace(PLAN, cells=1)
    report = verify(with_record(attacked, tmp_path / "b.zip", "adversarial", polish), one)
    (text,) = wrong(report)
    assert text.endswith("derived conditions, metrics or axis, sanity checks")

    def stretch(record: Record) -> None:
        record.extra["cka"][0][1] += 0.2

    report = verify(with_record(attacked, tmp_path / "c.zip", "redundancy", stretch), one)
    assert "facts about the model (extra)" in wrong(report)[0]


def test_a_condition_left_out_or_renamed_does_not_pass(bundle: Path, tmp_path: Path) -> None:
    def drop(record: Record) -> None:
        gone = record.cells.pop(3).condition
        keep = tuple(m for m in record.metrics if gone not in m.conditions)
        record.metrics = list(keep)

    report = verify(with_record(bundle, tmp_path / "b.zip", "crop", drop), replace(PLAN, cells=1))
    assert any("lacks 1 conditions" in text for text in wrong(report))


def test_a_probe_that_knows_the_test_images_is_found_by_training_one_anew(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its numbers reproduce; those of a probe trained as stated do not."""
    results = tmp_path / "results"
    probe = ProbeConfig()
    request = Evaluation(["clean"], results=results, device="cpu", probe=probe)
    evaluate_run(run, request)
    (file,) = (results / "probes").iterdir()
    with safetensors.safe_open(file, framework="pt") as opened:
        header = opened.metadata()
    test = open_dataset("parts", "test")
    with torch.no_grad():
        features = load_checkpoint(run).encoder(test.images(range(len(test))).float() / 255)
    # Least squares on the test images themselves.
    design = torch.cat([features, torch.ones(len(features), 1)], dim=1).double()
    targets = torch.eye(10).double()[test.labels]
    solution = torch.linalg.lstsq(design, targets).solution.float()
    tensors = load_file(file)
    tensors["weight"], tensors["bias"] = solution[:-1].T.contiguous(), solution[-1].contiguous()
    save_file(tensors, file, metadata=header)
    shutil.rmtree(results / "records")
    evaluate_run(run, request)
    path, _ = submit(str(run), results, tmp_path / "b.zip", True)
    assert verify(path, PLAN).reproduced
    report = verify(path, replace(PLAN, retrain_probe=True))
    assert any(text.startswith("clean clean (probe trained anew)") for text in wrong(report))


# ---- what cannot be verified ----


def recorded(suite: str, config: dict[str, Any], options: dict[str, Any]) -> Record:
    record = simulate.clean(0.5)
    record.suite, record.suite_config, record.options = suite, config, options
    return record


@pytest.mark.parametrize(
    ("suite", "options"),
    [
        ("clean", {}),
        ("corruption", {}),
        ("corruption", {"constants": "imagenet-c"}),
        ("corruption", {"backend": "reference"}),
        ("occlusion", {"stages": ["stage2", "local"], "ratios": [0.3], "sigmas": [1.5]}),
        ("adversarial", ADVERSARIAL | {"restarts": 2}),
        ("adversarial", {"attacks": "all"}),
        ("crop", {"areas": [0.3, 0.6]}),
        ("redundancy", {}),
        ("rf", {}),
    ],
)
def test_the_settings_in_a_record_give_the_suite_that_wrote_them(
    suite: str, options: dict[str, Any]
) -> None:
    test = open_dataset("parts", "test")
    made = make_suite(suite, options)
    made.configure(test)
    config = json.loads(json.dumps(made.config()))
    content = {
        "schema": 2,
        "suite": suite,
        "suite_config": config,
        "model": {},
        "dataset": {"size": 32},
        "cells": [],
    }
    record = recorded(suite, config, migrate(content, 3)["options"])
    second = make_suite(suite, verification._options(record, HERE))
    second.configure(test)
    assert json.loads(json.dumps(second.config())) == config


def test_ready_made_pictures_have_to_be_named() -> None:
    config = {"backend": "ready-made", "pictures": "ab"}
    record = recorded("corruption", config, {})
    with pytest.raises(CossError, match="pass their folder by --corruption-root"):
        verification._options(record, HERE)
    there = replace(HERE, options={"corruption": {"root": Path("pictures")}})
    assert verification._options(record, there) == {"root": Path("pictures")}


def test_a_record_says_nothing_of_where_and_how_fast_the_machine_here_works() -> None:
    options = {"backend": "fast", "root": "/etc", "workers": 10_000}
    record = recorded("corruption", {}, options)
    assert verification._options(record, HERE) == {"backend": "fast"}


def test_the_command_prints_a_line_per_cell_and_a_verdict(
    bench: Callable[..., Outcome], bundle: Path, tmp_path: Path
) -> None:
    arguments = ("--cells", 1, "--seed", 3, "--device", "cpu")
    honest = bench("verify", bundle, *arguments)
    assert honest.code == 0, honest.err
    lines = honest.out.splitlines()
    assert any(line.startswith("✓ clean clean: ") and "of 200" in line for line in lines)
    assert lines[-1].startswith("reproduced: every outcome equal; ")
    assert lines[-1].endswith("drawn with --seed 3")
    changed = bench(
        "verify", with_record(bundle, tmp_path / "b.zip", "clean", flattered), *arguments
    )
    assert changed.code == 1
    assert changed.out.splitlines()[-1].startswith("NOT REPRODUCED: ")
    assert any(line.startswith("✗ clean clean: ") for line in changed.out.splitlines())
    (tmp_path / MANIFEST).write_text("{}")
    broken = bench("verify", tmp_path / MANIFEST)
    assert (broken.code, broken.out) == (1, "")
    assert broken.err.startswith("error: ")
    assert "Traceback" not in broken.err
    assert bench("verify", bundle, "--cells", 0).code == 1
