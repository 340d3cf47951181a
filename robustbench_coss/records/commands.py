"""The recipe and the commands that repeat a measurement, spelled from its records alone.

What a record does not hold (`UNSAID`) is left to the defaults.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from robustbench_coss.files import canonical_json
from robustbench_coss.records.record import Record

RECIPE = "recipe.yaml"
UNSAID = (
    "Records do not hold the number of threads and processes. Early ones do not hold either "
    "whether an MLP was added to the architecture or left out (mlp), and into how many parts a "
    "batch was split (accumulate); the run folder's own recipe.yaml does."
)
MODEL = "MODEL"  # stands for weights that this tool did not train

# Keys of the project's own suites' settings -> the option of `eval --set SUITE.OPTION=VALUE`.
_OPTIONS = {
    "occlusion": {"stages": "stages", "ratios": "ratios", "sigmas": "sigmas"},
    "adversarial": {
        "attacks": "attacks",
        "linf_eps_255": "eps",
        "l2_eps_at_32_px": "eps_l2",
        "steps": "steps",
        "restarts": "restarts",
    },
    "clean": {"knn_bank": "bank"},
    "crop": {"areas": "areas"},
}


def recipe_of(record: Record) -> str:
    """The recipe of a model as YAML for `coss-bench pretrain --recipe`, without its seed.

    "" for a model that this tool did not train.
    """
    model, training = record.model, record.model.get("training") or {}
    if not {"epochs", "batch_size", "optimizer", "views", "options"} <= training.keys():
        return ""
    values = {
        "method": model["method"],
        "arch": model["arch"],
        "dataset": model["dataset"],
        "width": model["width"],
        "size": record.dataset["size"],
        "epochs": training["epochs"],
        "batch_size": training["batch_size"],
        "limit": training.get("images"),
        "precision": training.get("precision", "32"),
        **{key: training[key] for key in ("optimizer", "views", "options")},
        **({"accumulate": training["accumulate"]} if "accumulate" in training else {}),
        **({"mlp": model["mlp"]} if "mlp" in model else {}),
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None)


def commands_of(records: Sequence[Record]) -> list[str]:
    """What trains one run and measures it again: shell commands, the recipe in `RECIPE`.

    Args:
        records: of one run on one data set; suites measured alike share a command.
    """
    model = records[0].model
    trained = bool(recipe_of(records[0]))
    run = f"runs/{model['name']}" if trained else MODEL
    commands = []
    if trained:
        seed = str(model["training"].get("seed", 0))
        commands.append(_line(["pretrain", "--recipe", RECIPE, "--seed", seed, "--out", run]))
    alike: dict[str, list[Record]] = {}
    for record in records:
        d, probe = record.dataset, record.model.get("probe") or {}
        key = [d["name"], d.get("limit"), record.seed, probe.get("settings")]
        alike.setdefault(canonical_json(key), []).append(record)
    commands += [_line(_eval(run, group)) for group in alike.values()]
    return commands


def _eval(run: str, records: Sequence[Record]) -> list[str]:
    first = records[0]
    words = ["eval", run, "--dataset", first.dataset["name"]]
    if first.model.get("dataset") not in (None, first.dataset["name"]):
        words.append("--transfer")
    if run == MODEL:
        words += ["--size", str(first.dataset["size"])]
    words += ["--suite", ",".join(record.suite for record in records)]
    if first.dataset.get("limit") is not None:
        words += ["--limit", str(first.dataset["limit"])]
    words += ["--seed", str(first.seed)]
    if probe := (first.model.get("probe") or {}).get("settings"):
        words += ["--probe", str(probe.get("kind") or probe["protocol"])]  # as early records say
        if probe.get("max_train") is not None:
            words += ["--probe-train", str(probe["max_train"])]
    for record in records:
        words += _suite_words(record)
    return words


def _suite_words(record: Record) -> list[str]:
    """The options that give a suite the settings of a record."""
    config = record.suite_config
    if record.suite == "corruption":
        if config.get("backend") == "ready-made":
            return ["--corruption-root", "FOLDER"]
        given = ((f"--{key}", config.get(key)) for key in ("backend", "constants"))
        return [word for option, value in given if value for word in (option, str(value))]
    words = []
    for key, option in _OPTIONS.get(record.suite, {}).items():
        if config.get(key) is not None:
            words += ["--set", f"{record.suite}.{option}={_yaml(config[key])}"]
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
