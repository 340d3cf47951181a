"""Recipes and commands spelled from records are those that the records came from."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from helpers import ROOT, simulate

from robustbench_coss.cli import app
from robustbench_coss.cli.settings import suite_options
from robustbench_coss.evaluations.probes.linear import ProbeConfig
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.pretrain.recipe import build_recipe, differing_keys
from robustbench_coss.pretrain.train import pretrain
from robustbench_coss.records.commands import MODEL, RECIPE, commands_of, recipe_of
from robustbench_coss.records.record import Record, find_records

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def parsed(command: str) -> tuple[str, dict[str, Any]]:
    """A command's name and parameters, as the command line reads them."""
    tool, name, *words = shlex.split(command.replace("\\\n", ""))
    assert tool == "coss-bench"
    return name, COMMANDS[name].make_context(name, words).params


def trained(recipe: dict[str, Any], seed: int) -> Record:
    """A record of a model with the metadata that `pretrain` writes for a recipe."""
    made = build_recipe(recipe | {"seed": seed}, "test")
    record = simulate.clean(0.5, name="mine", dataset=made.dataset)
    record.model |= {"method": made.method, "arch": made.arch, "width": made.width}
    record.model["dataset"] = made.dataset
    record.model["training"] = {
        "recipe": made.model_dump(mode="json"),
        "images": made.limit,
        "steps": 10,
    }
    return record


def test_a_models_recipe_is_the_one_it_was_trained_with() -> None:
    values = {
        "method": "co-dino",
        "arch": "rf21_resnet18",
        "dataset": "fashion-mnist",
        "width": 0.3,
        "size": 32,
        "epochs": 7,
        "batch_size": 48,
        "limit": 900,
        "precision": "bf16",
        "optimizer": {"name": "adamw", "lr": 1e-6, "clip": 3.0},
        "views": {"min_crop": 0.31, "blur": [0.5, 0.25]},
        "options": {"w_s": 0.45, "grid": None},
    }
    record = trained(values, seed=3)
    again = build_recipe(yaml.safe_load(recipe_of(record)) | {"seed": 3}, "again")
    assert again == build_recipe(values | {"seed": 3}, "test")
    name, options = parsed(commands_of([record])[0])
    assert (name, options["recipe"], options["seed"]) == ("pretrain", RECIPE, 3)
    assert options["out"] == Path("runs/mine")


@pytest.mark.usefixtures("few_pictures", "small_bank")
@pytest.mark.parametrize("switches", [{}, {"mlp": False, "accumulate": 2}])
def test_a_run_that_was_trained_and_measured_gives_its_recipe_back(
    switches: dict[str, Any], tmp_path: Path
) -> None:
    values = {"width": 0.125, "size": 32, "epochs": 1, "limit": 64, "batch_size": 32, **switches}
    recipe = build_recipe(values | {"options": {"hidden": 16, "dim": 8}}, "test")
    pretrain(recipe, tmp_path / "run", device="cpu")
    probe = ProbeConfig(max_train=50)
    asked = Evaluation(["clean"], results=tmp_path, limit=20, device="cpu", probe=probe)
    (record,) = evaluate_run(tmp_path / "run", asked).values()
    stored = record.model["training"]["recipe"]
    assert stored == build_recipe(stored, "stored").model_dump(mode="json")  # whole, as it is read
    again = build_recipe(yaml.safe_load(recipe_of(record)), "again")
    differing = differing_keys(recipe, again)  # what was left at the method's defaults is spelled
    assert all(key.startswith("options.") for key in differing)
    assert (again.mlp, again.accumulate) == (recipe.mlp, recipe.accumulate)


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
        ("clean", {"bank": 300}),
        ("rf", {}),
        ("of-another-package", {"turns": [90, 180], "label": "it's; *", "deep": {"a": None}}),
    ],
)
def test_options_of_a_suite_are_printed_as_they_were_given(
    suite: str, options: dict[str, Any]
) -> None:
    record = simulate.clean(0.5)
    record.suite, record.options = suite, options
    name, given = parsed(commands_of([record])[-1])
    assert (name, given["suite"]) == ("eval", [suite])
    corruption = {key: given[key] for key in ("backend", "constants")}
    found = suite_options(given["settings"] or [], [suite], corruption)
    assert found.get(suite, {}) == options


def test_suites_measured_alike_share_a_command_and_others_do_not() -> None:
    records = [simulate.clean(0.5, name="mine") for _ in range(3)]
    for record, suite in zip(records, ("clean", "crop", "rf"), strict=True):
        record.suite = suite
        record.dataset["limit"] = 500
    records[2].seed = 4
    records[2].dataset["limit"] = None
    found = [parsed(command)[1] for command in commands_of(records)]
    assert [f["suite"] for f in found] == [["clean,crop"], ["rf"]]
    assert [f["limit"] for f in found] == [500, None]
    assert [f["seed"] for f in found] == [0, 4]
    assert [f["probe"] for f in found] == ["logistic", "logistic"]
    assert not any(f["transfer"] for f in found)


def test_another_data_set_needs_transfer_and_foreign_weights_a_placeholder() -> None:
    record = simulate.clean(0.5, dataset="mnist", name="it's $HOME; rm -rf")
    (command,) = commands_of([record])
    _, given = parsed(command)
    assert given["transfer"]
    assert given["models"] == [MODEL]
    assert given["size"] == 32
    assert recipe_of(record) == ""


def test_controls_are_called_by_their_names() -> None:
    pixels, untrained = simulate.clean(0.5), simulate.clean(0.5)
    pixels.model |= {"control": "pixels", "method": None, "dataset": None, "training": {}}
    untrained.model |= pixels.model | {"control": "untrained", "arch": "rf29_resnet18"}
    untrained.model |= {"width": 0.5, "training": {"seed": 3}}
    named = [parsed(commands_of([record])[-1])[1] for record in (pixels, untrained)]
    expected = [["control:pixels"], ["control:untrained:rf29_resnet18:0.5:3"]]
    assert [given["models"] for given in named] == expected
    assert [given["size"] for given in named] == [32, 32]


def test_names_are_quoted_for_the_shell() -> None:
    record = trained({"dataset": "fashion-mnist"}, seed=0)
    record.model["name"] = "it's $HOME; `rm`"
    for command in commands_of([record]):
        assert f"runs/{record.model['name']}" in shlex.split(command)


def test_lines_of_long_commands_are_short() -> None:
    for _, record in find_records(ROOT / "results" / "fashion-mnist"):
        for command in commands_of([record]):
            assert max(map(len, command.splitlines())) < 100
            assert all(re.match("    --", line) for line in command.splitlines()[1:])
            parsed(command)


def test_a_model_of_the_hub_is_named_at_its_commit_and_other_weights_are_not() -> None:
    record = simulate.clean(0.5)
    record.model |= {"arch": "hf:org/net", "reading": {"commit": "c" * 40}}
    (command,) = commands_of([record])
    assert parsed(command)[1]["models"] == [f"hf:org/net@{'c' * 40}"]
    record.model |= {"reading": {"pooling": "class"}}  # a folder of somebody's
    (command,) = commands_of([record])
    assert parsed(command)[1]["models"] == [MODEL]
