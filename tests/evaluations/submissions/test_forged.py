"""Bundles that somebody forged who knows the format: none of them passes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.bundles import PLAN, Files, rebuilt

from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.submissions.bundle import (
    ENCODER,
    ENVIRONMENT,
    RECIPE,
    open_bundle,
)
from robustbench_coss.evaluations.submissions.contents import read_records
from robustbench_coss.evaluations.submissions.submit import environment_of, manifest_of
from robustbench_coss.evaluations.submissions.verify import verify
from robustbench_coss.evaluations.suites.adversarial import Adversarial
from robustbench_coss.records.columns import encode
from robustbench_coss.records.record import from_json

CLEAN = "records/parts/clean.json"
Content = dict[str, Any]


def cell(content: Content) -> Content:
    found: Content = content["cells"][0]
    return found


def all_right(stored: Content) -> Content:
    return encode(np.ones(stored["n"], bool))


def flattering(content: Content) -> None:
    cell(content)["outcomes"]["correct"] = all_right(cell(content)["outcomes"]["correct"])


def twice(content: Content) -> None:
    first = copy.deepcopy(cell(content))
    content["cells"].insert(0, first)
    flattering(content)


def relabelled(content: Content) -> None:
    n = content["label"]["n"]
    content["label"] = encode(np.full(n, content["dataset"]["classes"], np.int32))


def one_image_often(content: Content) -> None:
    content["index"] = encode(np.zeros(content["index"]["n"], np.int32))


def put(value: Any, *path: Any) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


RECORDS: dict[str, tuple[Callable[[Content], None], str]] = {
    "a condition twice": (twice, "condition clean is there twice"),
    "a metric twice": (lambda c: c["metrics"].append(c["metrics"][0]), "metric .* is there twice"),
    "a label of no class": (relabelled, "label 10 of 10 classes"),
    "one image many times": (one_image_often, "an image is there twice"),
    "fewer images than stated": (put(199, "dataset", "n"), "199 were expected|dataset.n is 199"),
    "a limit below the images": (put(5, "dataset", "limit"), "more than dataset.limit 5"),
    "a metric of nothing": (put(["fog@9"], "metrics", 0, "conditions"), "fog@9, which is not"),
    "a metric that counts twice": (
        put(["clean", "clean"], "metrics", 0, "conditions"),
        "condition of metric .* is there twice",
    ),
    "an unknown field": (put("SOTA", "rank"), "rank"),
    "an unknown field of the model": (put("SOTA", "model", "rank"), "rank"),
    "a seed below 0": (put(-1, "seed"), "seed"),
    "a seed of 401 digits": (put(10**400, "seed"), "seed|digits"),
    "a schema with a point": (put(3.0, "schema"), "schema"),
    "schema 2.0": (put(2.0, "schema"), "schema"),
    "schema true": (put(True, "schema"), "schema"),
    "an unknown schema": (put(99, "schema"), "schema"),
    "another checkpoint": (
        put("0" * 64, "model", "checkpoint_sha256"),
        "another checkpoint|the key of",
    ),
    "not complete": (put(False, "complete"), "is not complete"),
    "another suite in its place": (put("crop", "suite"), "is of crop on parts"),
    "another data set in its place": (put("cifar10", "dataset", "name"), "is of clean on cifar10"),
    "another key": (put("0" * 64, "key"), "the key of"),
    "another training seed": (
        put({"recipe": {"seed": 7}, "images": 0, "steps": 0}, "model", "training"),
        "describes another model|does not follow",
    ),
    "another method": (put("dino", "model", "method"), "describes another model"),
    "10^12 images": (put(10**12, "dataset", "n"), "at most 67,108,864 are read"),
    "a list": (put([], "model"), "model"),
}


def forged(
    bundle: Path, out: Path, change: Callable[[Content], None], *, name: str = CLEAN
) -> Path:
    """A bundle with a changed record, and everything that follows from it changed alike."""

    def edit(files: Files, head: dict[str, Any]) -> None:
        content = json.loads(files[name])
        change(content)
        files[name] = json.dumps(content).encode()
        try:
            records = {k: from_json(json.loads(v), k) for k, v in files.items() if "records/" in k}
            head |= manifest_of(records, "encoder.safetensors" in files)
            files[ENVIRONMENT] = json.dumps(environment_of(records)).encode()
        except CossError:
            pass  # it cannot even be stated

    return rebuilt(bundle, out, edit)


@pytest.mark.parametrize("kind", RECORDS)
def test_a_forged_record_is_refused(bundle: Path, tmp_path: Path, kind: str) -> None:
    change, words = RECORDS[kind]
    with pytest.raises(CossError, match=words) as refused:
        verify(forged(bundle, tmp_path / "b.zip", change), PLAN)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["a condition twice", "a seed below 0", "schema 2.0"])
def test_tables_refuse_what_verification_does(bundle: Path, tmp_path: Path, kind: str) -> None:
    def unpack(files: Files, head: dict[str, Any]) -> None:
        content = json.loads(files[CLEAN])
        RECORDS[kind][0](content)
        place = tmp_path / "records" / "tiny-00000000" / "parts" / "clean.json"
        place.parent.mkdir(parents=True)
        place.write_text(json.dumps(content))

    rebuilt(bundle, tmp_path / "b.zip", unpack)
    with pytest.raises(CossError):
        load_measurements(tmp_path)


def test_better_outcomes_are_not_reproduced(bundle: Path, tmp_path: Path) -> None:
    report = verify(forged(bundle, tmp_path / "b.zip", flattering), PLAN)
    assert not report.reproduced


def test_other_words_and_levels_do_not_follow(bundle: Path, tmp_path: Path) -> None:
    for change in (put("SOTA", "about", "title"), put("best", "cells", 0, "kind")):
        report = verify(forged(bundle, tmp_path / "b.zip", change), PLAN)
        assert not report.reproduced


@pytest.mark.parametrize("text", ['{"suite": "clean", "suite": "crop"}', "NaN", "[Infinity]"])
def test_json_that_says_two_things_or_no_number_is_refused(
    bundle: Path, tmp_path: Path, text: str
) -> None:
    def edit(files: Files, head: dict[str, Any]) -> None:
        content = files[CLEAN].decode()
        files[CLEAN] = content.replace('"seed":', f'"extra": {text}, "seed":', 1).encode()

    with pytest.raises(CossError, match=r"clean\.json is not valid JSON"):
        verify(rebuilt(bundle, tmp_path / "b.zip", edit), PLAN)


MANIFESTS: dict[str, tuple[Callable[[Content], None], str]] = {
    "SOTA": (put("SOTA", "rank"), "rank"),
    "another name": (put("SOTA", "model", "name"), "model"),
    "another method": (put("co-dino", "model", "method"), "model"),
    "another architecture": (put("resnet50", "model", "arch"), "model"),
    "another data set": (put("imagenet", "records", 0, "dataset"), "records"),
    "more images": (put(50_000, "records", 0, "n"), "records"),
    "fewer records": (lambda head: head["records"].pop(), "records"),
    "a record twice": (lambda head: head["records"].append(head["records"][0]), "records"),
    "a later day": (put("2099-01-01T00:00:00Z", "created"), "created"),
    "another device": (put(["H100"], "devices"), "devices"),
    "other versions": (put({}, "versions"), "versions"),
    "an encoder that is not there": (put(False, "encoder_included"), "encoder_included"),
    "another tool": (put("mine", "tool", "name"), "the tool that wrote it"),
    "records of a wrong type": (put("all", "records"), "records"),
    "no model": (lambda head: head.pop("model"), "model"),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_that_does_not_follow_from_the_records_is_refused(
    bundle: Path, tmp_path: Path, kind: str
) -> None:
    change, words = MANIFESTS[kind]
    path = rebuilt(bundle, tmp_path / "b.zip", lambda files, head: change(head))
    with pytest.raises(CossError, match=words):
        verify(path, PLAN)


def test_files_beside_the_records_belong_to_them(bundle: Path, tmp_path: Path) -> None:
    def other_place(files: Files, head: dict[str, Any]) -> None:
        files["records/parts/clean2.json"] = files[CLEAN]

    def foreign_probe(files: Files, head: dict[str, Any]) -> None:
        files[f"probes/{'0' * 64}.safetensors"] = b"x"

    def other_machine(files: Files, head: dict[str, Any]) -> None:
        files[ENVIRONMENT] = files[ENVIRONMENT].replace(b'"device": "', b'"device": "H100 ')

    def no_machine(files: Files, head: dict[str, Any]) -> None:
        del files[ENVIRONMENT]

    for change, words in (
        (other_place, "clean2.json is of clean on parts"),
        (foreign_probe, "belongs to none of its records"),
        (other_machine, r"environment\.json is not that of the records"),
        (no_machine, r"lacks environment\.json"),
    ):
        with pytest.raises(CossError, match=words):
            verify(rebuilt(bundle, tmp_path / "b.zip", change), PLAN)
    for name in ("../x.json", "/x.json", "records/../../x.json", "records/.x/clean.json", "x.txt"):
        with pytest.raises(CossError, match="a bundle has no file"):
            rebuilt(bundle, tmp_path / "b.zip", lambda files, head, n=name: files.update({n: b""}))


RECORDED = {
    "epochs": 2,
    "precision": "bf16",
    "views": {"blur": [0.1, 2.0]},
    "options": {"dim": 8, "w_s": 1.0, "t": 0.1},
}


@pytest.mark.parametrize(
    ("stated", "wrong"),
    [
        ("epochs: 2\nviews: {blur: [0.1, 2.0]}\noptions: {dim: 8, w_s: 1.0, t: 0.1}", None),
        ("options: {}\nnote: mine", None),
        ("options: {w_s: 1, t: 1e-1, dim: '8'}", None),  # YAML reads 1e-1 as text
        ("precision: auto", None),
        ("precision: '32'", "precision"),
        ("options: {w_s: 0.5}", "options"),
        ("options: {dim: '8 '}\nepochs: 3", "epochs"),
        ("options: {heads: 2}", "options"),
        ("views: {blur: [0.1]}", "views"),
        ("views: [0.1, 2.0]", "views"),
        ("options: {dim: eight}", "options"),
    ],
)
def test_a_recipe_file_states_settings_of_the_records_as_they_were_given(
    stated: str, wrong: str | None, bundle: Path, tmp_path: Path
) -> None:
    def change(files: Files, head: dict[str, Any]) -> None:
        for name in [n for n in files if n.startswith("records/")]:
            content = json.loads(files[name])
            content["model"]["training"] = {"recipe": RECORDED, "images": 10, "steps": 2}
            files[name] = json.dumps(content).encode()
        files[RECIPE] = stated.encode()
        records = {n: from_json(json.loads(files[n]), n) for n in files if n.startswith("records/")}
        head |= manifest_of(records, ENCODER in files)

    made = open_bundle(rebuilt(bundle, tmp_path / "b.zip", change))
    refusal = pytest.raises(CossError, match=rf"recipe\.yaml is not that of the records: {wrong}$")
    with refusal if wrong else nullcontext():
        read_records(made)


def test_attacks_of_a_billion_steps_are_refused() -> None:
    with pytest.raises(CossError, match=r"adversarial\.steps must be .* to 10,000, got 1000000000"):
        Adversarial(steps=10**9)
