"""The recipe and the commands that repeat a measurement, spelled from its records alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from robustbench_coss.files import canonical_json
from robustbench_coss.records.record import Record
from robustbench_coss.records.training import recipe_in

RECIPE = "recipe.yaml"
MODEL = "MODEL"  # stands for weights that this tool did not train

_FIRST = ("version", "method", "arch", "dataset", "width", "mlp", "size", "epochs", "batch_size")


def recipe_of(record: Record) -> str:
    """The recipe of a model as YAML for `coss-bench pretrain --recipe`, without its seed.

    "" for a model that this tool did not train.
    """
    recipe = recipe_in(record.model)
    recipe.pop("seed", None)
    if not recipe:
        return ""
    order = [key for key in _FIRST if key in recipe] + sorted(recipe.keys() - set(_FIRST))
    values = {key: recipe[key] for key in order}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None)


def commands_of(records: Sequence[Record]) -> list[str]:
    """What trains one run and measures it again: shell commands, the recipe in `RECIPE`.

    Args:
        records: of one run on one data set; suites measured alike share a command.
    """
    model = records[0].model
    recipe = recipe_in(model)
    run = f"runs/{model['name']}" if recipe else _control(model) or _of_the_hub(model) or MODEL
    commands = []
    if recipe:
        seed = str(recipe.get("seed", 0))
        commands.append(_line(["pretrain", "--recipe", RECIPE, "--seed", seed, "--out", run]))
    alike: dict[str, list[Record]] = {}
    for record in records:
        d, probe = record.dataset, record.model.get("probe") or {}
        images = [d["name"], d.get("limit"), d.get("image_list"), d.get("unreadable")]
        key = [images, record.seed, record.arithmetic(), probe.get("settings")]
        alike.setdefault(canonical_json(key), []).append(record)
    commands += [_line(_eval(run, group)) for group in alike.values()]
    return commands


def _control(model: Mapping[str, Any]) -> str:
    """What a control is called on the command line; "" for another model."""
    if "control" not in model:
        return ""
    words = ["control", model["control"]]
    if model["control"] == "untrained":
        words += [model["arch"], f"{model['width']:g}", str(model["training"]["seed"])]
        words += ["no-mlp"] if model.get("mlp") is False else []
    return ":".join(words)


def _of_the_hub(model: Mapping[str, Any]) -> str:
    """What a model of the Hub is called, at the commit that was measured; "" for another."""
    name, commit = str(model["arch"]), model.get("reading", {}).get("commit")
    return f"{name}@{commit}" if commit and ":" in name else ""


def _eval(run: str, records: Sequence[Record]) -> list[str]:
    first = records[0]
    words = ["eval", run, "--dataset", first.dataset["name"]]
    if first.model.get("dataset") not in (None, first.dataset["name"]):
        words.append("--transfer")
    if run == MODEL or "control" in first.model:
        words += ["--size", str(first.dataset["size"])]
    options = first.model["reading"] if "file_sha256" in first.model else {}
    for option, value in sorted(options.items()):
        name = f"--{option.replace('_', '-')}"
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        words += [name] if value is True else [name, text]
    words += ["--suite", ",".join(record.suite for record in records)]
    if first.dataset.get("limit") is not None:
        words += ["--limit", str(first.dataset["limit"])]
    if "image_list" in first.dataset:
        words += ["--image-list", first.dataset["image_list"]["file"]]
    words += ["--skip-bad-images"] if "unreadable" in first.dataset else []
    words += ["--seed", str(first.seed)]
    precision, *compiled = first.arithmetic().split(", ")
    words += ["--precision", precision] if precision != "32" else []
    words += ["--compile"] if compiled else []
    if probe := (first.model.get("probe") or {}).get("settings"):
        words += ["--probe", str(probe.get("kind") or probe["protocol"])]  # as early records say
        if probe.get("max_train") is not None:
            words += ["--probe-train", str(probe["max_train"])]
    for record in records:
        for option, value in sorted(record.options.items()):
            words += ["--set", f"{record.suite}.{option}={_yaml(value)}"]
    return words


def _yaml(value: Any) -> str:
    """A value on one line, as `--set` reads it."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1_000_000)
    return text.removesuffix("...\n").strip()


def _line(words: Sequence[str]) -> str:
    """Words as a command, broken before an option that would make a line long."""
    parts: list[str] = ["coss-bench"]
    for word in words:
        if word.startswith("--"):
            parts.append(shlex.quote(word))
        else:
            parts[-1] += f" {shlex.quote(word)}"
    lines = parts[:1]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) < 88:
            lines[-1] += f" {part}"
        else:
            lines.append(f"    {part}")
    return " \\\n".join(lines)
