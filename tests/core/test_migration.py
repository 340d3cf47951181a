"""Records of older schemas read as what they were, in the form of today's."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, simulate

from robustbench_coss.analysis.configurations import load_measurements, setting
from robustbench_coss.evaluations.protocol import make_suite
from robustbench_coss.pretrain.recipe import build_recipe
from robustbench_coss.records.migrate import migrate
from robustbench_coss.records.record import SCHEMA, find_records, write_record
from robustbench_coss.records.training import recipe_in, training_of, with_recipe

STUDIES = sorted(path.parent for path in (ROOT / "results").glob("*/records"))

OPTIMIZER = {"name": "sgd", "lr": 0.5, "momentum": 0.9, "weight_decay": 0.0, "warmup_epochs": 1.0}
PARTS: dict[str, Any] = {
    "seed": 3,
    "epochs": 16,
    "batch_size": 64,
    "images": 8000,
    "steps": 2000,
    "precision": "32",
    "optimizer": OPTIMIZER,
    "views": {"min_crop": 0.5, "local_views": 4},
    "options": {"ema": 0.95, "w_s": 0.3},
}
MODEL: dict[str, Any] = {
    "name": "byol-s3",
    "method": "co-byol",
    "arch": "rf29_resnet18",
    "width": 0.125,
    "dataset": "fashion-mnist",
    "training": PARTS,
}


def test_the_parts_of_a_recipe_become_one_that_pretrain_reads() -> None:
    whole = with_recipe(MODEL | {"mlp": False}, size=32)
    assert "mlp" not in whole
    assert whole["training"].keys() == {"recipe", "images", "steps"}
    recipe = build_recipe(recipe_in(whole), "migrated")
    assert (recipe.method, recipe.arch, recipe.width) == ("co-byol", "rf29_resnet18", 0.125)
    assert (recipe.dataset, recipe.size, recipe.limit) == ("fashion-mnist", 32, 8000)
    assert (recipe.epochs, recipe.batch_size, recipe.seed) == (16, 64, 3)
    assert (recipe.mlp, recipe.views.min_crop, recipe.views.local_crops) == (False, 0.5, 4)
    assert recipe.options == {"ema": 0.95, "w_s": 0.3}
    assert recipe.optimizer.lr == 0.5
    assert with_recipe(whole, size=32) == whole


def test_a_model_that_was_not_trained_by_a_recipe_is_left_as_it_is() -> None:
    for training in ({}, {"seed": 1, "epochs": 3}):
        model = MODEL | {"training": training}
        assert with_recipe(model, size=32) == model
        assert recipe_in(model) == {}
        assert training_of(model) == training


def test_nothing_that_leaves_what_is_learnt_alone_tells_two_trainings_apart() -> None:
    one = with_recipe(MODEL, size=32)
    recipe = recipe_in(one) | {"workers": 0, "monitor_every": 5, "mlp": None, "accumulate": 1}
    other = one | {"training": one["training"] | {"recipe": recipe}}
    assert training_of(one) == training_of(other)
    for change in ({"mlp": False}, {"accumulate": 2}, {"epochs": 17}, {"options": {}}):
        changed = one["training"] | {"recipe": recipe | change}
        assert training_of(one | {"training": changed}) != training_of(one)


def test_an_older_seed_and_a_new_one_are_seeds_of_one_configuration(tmp_path: Path) -> None:
    for seed in range(2):
        record = simulate.clean(0.5, seed=seed, training=PARTS | {"seed": seed})
        if seed:
            record.model = with_recipe(record.model, size=32)
            recipe = recipe_in(record.model) | {"workers": 4, "mlp": None, "accumulate": 1}
            record.model["training"]["recipe"] = recipe
        simulate.save(tmp_path, record)
    path, _ = next(find_records(tmp_path))
    older = json.loads(path.read_text()) | {"schema": 2}
    del older["about"], older["options"]
    path.write_text(json.dumps(older))
    (measurement,) = load_measurements(tmp_path)
    assert len(measurement.records) == 2
    assert setting(measurement, "training.views.min_crop") == 0.5


def test_what_older_records_do_not_say_is_empty() -> None:
    first: dict[str, Any] = {
        "schema": 1,
        "suite": "of-another-package",
        "suite_config": {"turns": [90]},
        "model": {"training": {}},
        "dataset": {"size": 32},
        "cells": [{"condition": "a@2", "group": "g"}],
    }
    new = migrate(first, SCHEMA)
    assert (new["schema"], new["extra"], new["about"], new["options"]) == (SCHEMA, {}, {}, {})
    told = {"condition": "a@2", "group": "g"}
    assert new["cells"] == [told | {"problem": "", "stage": "", "kind": "a"}]
    assert first["schema"] == 1
    assert first["cells"] == [told]


@pytest.mark.parametrize(
    ("suite", "options"),
    [
        ("adversarial", {"attacks": ["pgd-linf", "square"], "eps": [1, 2], "steps": 7}),
        ("adversarial", {"eps_l2": 0.25, "restarts": 2}),
        ("occlusion", {"ratios": [0.1, 0.7], "sigmas": [0.5], "stages": ["stage2", "local"]}),
        ("crop", {"areas": [0.6, 0.3]}),
        ("corruption", {"backend": "fast", "constants": "cifar-c"}),
        ("corruption", {"backend": "reference"}),
        ("redundancy", {}),
        ("clean", {}),
        ("rf", {}),
    ],
)
def test_options_are_read_off_the_settings_of_older_records(
    suite: str, options: dict[str, Any], tmp_path: Path
) -> None:
    config = make_suite(suite, options).config()
    record = simulate.clean(0.5)
    record.suite, record.suite_config = suite, config
    write_record(tmp_path / "r.json", record)
    older = json.loads((tmp_path / "r.json").read_text()) | {"schema": 2}
    found = migrate(older, SCHEMA)["options"]
    assert make_suite(suite, found).config() == config


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_committed_records_keep_their_recipes_and_settings(study: Path) -> None:
    for path, record in find_records(study):
        stored = json.loads(path.read_text())
        if stored["schema"] > 2:
            continue
        told = stored["model"]["training"]
        recipe = build_recipe(recipe_in(record.model), path.name)
        assert recipe.optimizer.model_dump() == told["optimizer"]
        assert recipe.options == told["options"]
        assert recipe.views.min_crop == told["views"]["min_crop"]
        assert recipe.views.local_crops == told["views"]["local_views"]
        assert (recipe.seed, recipe.epochs) == (told["seed"], told["epochs"])
        for option, value in record.options.items():
            assert value in stored["suite_config"].values(), option


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_committed_records_keep_their_seeds_together_under_their_names(study: Path) -> None:
    with (study / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        committed = {
            (line["model"], line["suite"], int(line["seeds"])) for line in csv.DictReader(file)
        }
    found = {(m.label, m.suite, len(m.records)) for m in load_measurements(study)}
    assert found == committed
