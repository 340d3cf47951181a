"""Where the numbers of a configuration come from, and the commands that make them again."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustbench_coss.configurations import Measurement, method_name
from robustbench_coss.field_figure import read_fields
from robustbench_coss.records import Record
from robustbench_coss.report.words import counted, flat, several
from robustbench_coss.tables import MISSING, Block, TableCell, block, percent_text

OPTIONS = {
    "occlusion": {"stages": "stages", "ratios": "ratios", "sigmas": "sigmas"},
    "adversarial": {
        "attacks": "attacks",
        "linf_eps_255": "eps",
        "l2_eps_at_32_px": "eps_l2",
        "steps": "steps",
        "restarts": "restarts",
    },
    "crop": {"areas": "areas"},
}
"""Suite -> what its settings in a record are called as options of `coss-bench eval --set`."""

READY_MADE = "ready-made"  # the corruption backend that reads pictures


@dataclass(frozen=True)
class ModelPart:
    """How one configuration came about.

    Attributes:
        label: the configuration.
        facts: (name, value) of the model.
        runs: a row per run: name, seed, checkpoint, probe accuracies.
        training, probe: settings as (dotted key, value).
        data: (test set, SHA-256 of its images).
        versions, measured: software, and when.
        commands: shell commands, in order.
        remarks: what the commands cannot say.
    """

    label: str
    facts: tuple[tuple[str, str], ...]
    runs: Block
    training: tuple[tuple[str, str], ...]
    probe: tuple[tuple[str, str], ...]
    data: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    measured: str
    commands: str
    remarks: tuple[str, ...]


def model_part(label: str, mine: Sequence[Measurement]) -> ModelPart:
    """Provenance of one configuration from all of its records.

    Args:
        mine: its measurements, by any suite and on any test set.
    """
    records = [record for m in mine for record in m.records]
    by_run: dict[str, list[Record]] = {}
    for record in records:
        by_run.setdefault(record.model["checkpoint_sha256"], []).append(record)
    runs = list(by_run.values())
    model = records[0].model
    training = {k: v for k, v in (model.get("training") or {}).items() if k != "seed"}
    probe = model.get("probe") or {}
    settings = {"trained on": probe.get("dataset"), "images": probe.get("n_train")}
    return ModelPart(
        label=label,
        facts=tuple(model_facts(mine)),
        runs=_runs(runs),
        training=tuple(flat(training)),
        probe=tuple(flat(settings | dict(probe.get("settings") or {}))) if probe else (),
        data=tuple(
            dict.fromkeys(
                (m.test_set.label, str(m.records[0].dataset["fingerprint"])) for m in mine
            )
        ),
        versions=tuple(
            (name, several(r.versions.get(name) for r in records))
            for name in sorted({name for r in records for name in r.versions})
        ),
        measured=_span([r.created for r in records]),
        commands=commands(runs),
        remarks=tuple(_remarks(runs)),
    )


def model_facts(mine: Sequence[Measurement]) -> list[tuple[str, str]]:
    """(name, value) of what is known of a configuration; what is not known is left out."""
    model = mine[0].model
    training = model.get("training") or {}
    seeds = list(
        dict.fromkeys((r.model.get("training") or {}).get("seed") for m in mine for r in m.records)
    )
    width = model.get("width")
    arch = str(model["arch"]) if model.get("arch") else ""
    if arch and width is not None and float(width) != 1:
        arch += f", width ×{float(width):g}"
    budget = [
        counted(training[key], noun)
        for key, noun in (("epochs", "epoch"), ("images", "image"), ("steps", "step"))
        if isinstance(training.get(key), int)
    ]
    facts = [
        ("Method", method_name(str(model["method"])) if model.get("method") else ""),
        ("Architecture", arch),
        ("Parameters", f"{model['parameters']:,}" if model.get("parameters") else ""),
        ("Field of a local", _field(mine)),
        ("Network measured", str(model.get("encoder") or "")),
        ("Pretrained on", str(model.get("dataset") or "")),
        ("Training", ", ".join(budget)),
        ("Seeds", several(seeds)),
    ]
    return [(name, value) for name, value in facts if value]


def _field(mine: Sequence[Measurement]) -> str:
    """The theoretical field of a local representation: measured by `rf`, or in the name."""
    for m in mine:
        if m.suite == "rf" and (fields := read_fields(m.records[0])):
            last = list(fields.values())[-1]
            return "no bound known" if last.field is None else f"{last.field} px"
    named = re.match(r"(?:rf|bagnet)(\d+)(?:_|$)", str(mine[0].model.get("arch")))
    return f"{named[1]} px" if named else ""


def _runs(runs: Sequence[Sequence[Record]]) -> Block:
    models = [records[0].model for records in runs]
    probes = [model.get("probe") or {} for model in models]

    def share(probe: Mapping[str, Any], key: str) -> TableCell:
        value = probe.get(key)
        return TableCell(percent_text(value) if isinstance(value, (int, float)) else MISSING)

    seeds = [(model.get("training") or {}).get("seed") for model in models]
    return block(
        [
            ("Run", [TableCell(str(model["name"])) for model in models]),
            ("Seed", [TableCell(MISSING if s is None else str(s)) for s in seeds]),
            ("Probe, train (%)", [share(p, "train_top1") for p in probes]),
            ("validation (%)", [share(p, "validation_top1") for p in probes]),
            ("SHA-256 of the weights", [TableCell(m["checkpoint_sha256"]) for m in models]),
        ]
    )


def _span(times: Sequence[str]) -> str:
    days = sorted({time[:10] for time in times if time})
    return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""


# ---- commands ----


def commands(runs: Sequence[Sequence[Record]]) -> str:
    """Shell commands that train and measure these runs again, seeds in a loop where they fit one.

    They state every setting that the records hold and leave nothing to defaults.

    Args:
        runs: for each run all of its records.
    """
    if looped := _loop(runs):
        return looped
    return "\n".join("\n".join(_of_run(r, _seed(r), r[0].model["name"])) for r in runs)


def _loop(runs: Sequence[Sequence[Record]]) -> str:
    """All runs as one loop over seeds; "" if they differ in more than the seed."""
    seeds = [_seed(records) for records in runs]
    heads = {
        name.removesuffix(seed)
        for records, seed in zip(runs, seeds, strict=True)
        if seed and (name := str(records[0].model["name"])).endswith(seed)
    }
    if len(runs) < 2 or len(heads) != 1 or len(set(seeds)) < len(runs) or "" in seeds:
        return ""
    (head,) = heads
    if not re.fullmatch(r"[\w.+-]+", head, re.ASCII):
        return ""
    written = {
        "\n".join(f"  {line}" for line in _of_run(records, "$seed", f"{head}$seed"))
        for records in runs
    }
    if len(written) > 1:
        return ""
    return f"for seed in {' '.join(seeds)}; do\n{written.pop()}\ndone"


def _seed(records: Sequence[Record]) -> str:
    seed = (records[0].model.get("training") or {}).get("seed")
    return "" if seed is None else str(seed)


def _of_run(records: Sequence[Record], seed: str, name: str) -> list[str]:
    model = records[0].model
    trained = model.get("training") or {}
    if not {"epochs", "batch_size", "optimizer", "views"} <= trained.keys():
        known = name.startswith(("torchvision:", "timm:"))
        size = ["--size", records[0].dataset["size"]]
        return _evaluations(records, name if known else "FILE", [] if known else size)
    run = f"runs/{name}"
    pretrain: list[Any] = ["coss-bench", "pretrain"]
    for option, value in (
        ("--method", model["method"]),
        ("--arch", model["arch"]),
        ("--dataset", model["dataset"]),
        ("--width", f"{model['width']:g}"),
        ("--image-size", records[0].dataset["size"]),
        ("--epochs", trained["epochs"]),
        ("--batch-size", trained["batch_size"]),
        ("--limit", trained.get("images")),
        ("--seed", seed),
        ("--precision", trained.get("precision")),
    ):
        pretrain += [] if value is None else [option, value]
    for key in ("optimizer", "views", "options"):
        pretrain += ["--set", f"{key}={_yaml(trained.get(key) or {})}"]
    return [_shell([*pretrain, "--out", run]), *_evaluations(records, run, [])]


def _evaluations(records: Sequence[Record], model: str, more: list[Any]) -> list[str]:
    """One `coss-bench eval` for all suites that were measured on the same images alike."""
    alike: dict[str, list[Any]] = {}
    suites: dict[str, list[str]] = {}
    for record in records:
        shared = _shared_options(record)
        key = json.dumps(shared, sort_keys=True)
        alike.setdefault(key, shared).extend(_suite_options(record))
        suites.setdefault(key, []).append(record.suite)
    return [
        _shell(["coss-bench", "eval", model, "--suite", ",".join(suites[key]), *more, *options])
        for key, options in alike.items()
    ]


def _shared_options(record: Record) -> list[Any]:
    probe = (record.model.get("probe") or {}).get("settings") or {}
    options: list[Any] = ["--dataset", record.dataset["name"]]
    if record.dataset["name"] != record.model.get("dataset"):
        options.append("--transfer")
    for option, value in (
        ("--limit", record.dataset.get("limit")),
        ("--probe", probe.get("protocol")),
        ("--probe-train", probe.get("max_train")),
        ("--seed", record.seed),
    ):
        options += [] if value is None else [option, value]
    return options


def _suite_options(record: Record) -> list[Any]:
    config = record.suite_config
    if record.suite == "corruption":
        if config.get("backend") == READY_MADE:
            return ["--corruption-root", "FOLDER"]
        # Records from before there was a choice name the package alone, which was the reference.
        backend = config.get("backend", "reference")
        fast = ["--constants", config["constants"]] if backend == "fast" else []
        return ["--backend", backend, *fast]
    known = OPTIONS.get(record.suite, {})
    options: list[Any] = []
    for key, option in known.items():
        if key in config:
            options += ["--set", f"{record.suite}.{option}={_yaml(config[key])}"]
    return options


def _yaml(value: Any) -> str:
    """A value on one line as YAML reads it; JSON is YAML but for numbers such as 1e-05."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items())
        return f"{{{inner}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, float):
        text = repr(value)
        mantissa, e, exponent = text.partition("e")
        return text if not e or "." in mantissa else f"{mantissa}.0e{exponent}"
    return json.dumps(value, ensure_ascii=False)


def _shell(words: Sequence[Any]) -> str:
    """Words as a command; `$seed` stays a variable."""
    return " ".join(_word(str(word)) for word in words)


def _word(word: str) -> str:
    if "$seed" in word and re.fullmatch(r"[\w./+$-]+", word, re.ASCII):
        return word
    return shlex.quote(word)


def _remarks(runs: Sequence[Sequence[Record]]) -> list[str]:
    records = [record for run in runs for record in run]
    text = commands(runs)
    remarks = []
    if "coss-bench pretrain" in text:
        remarks.append(
            "The commands state every setting that the records hold. The recipe.yaml of a run "
            "folder holds the rest: whether an MLP follows pooling, and into how many parts a "
            "batch was split."
        )
    if "FILE" in text.split():
        remarks.append(
            "FILE is the checkpoint of the SHA-256 above; how it was trained is not recorded."
        )
    if "FOLDER" in text.split():
        found = several(r.suite_config.get("pictures") for r in records if r.suite == "corruption")
        remarks.append(f"FOLDER holds the ready-made pictures of the fingerprint {found}.")
    unknown = {r.suite for r in records} - {
        *OPTIONS, "clean", "corruption", "redundancy", "rf",
    }  # fmt: skip
    if unknown:
        remarks.append(
            f"Settings of {several(sorted(unknown))} are listed with the suite; what its options "
            "are called is for its own package to say."
        )
    return remarks
