"""Where the numbers of a configuration come from, and the commands that make them again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from robustbench_coss.analysis.configurations import SeedGroup, method_name
from robustbench_coss.figures.receptive_fields import read_fields
from robustbench_coss.pages.report.words import counted, flat, listed, several
from robustbench_coss.records.commands import MODEL, RECIPE, commands_of, recipe_of
from robustbench_coss.records.record import Record
from robustbench_coss.records.training import recipe_in, training_of
from robustbench_coss.tables.cells import MISSING, Block, TableCell, block, percent_text


@dataclass(frozen=True)
class ModelPart:
    """How one configuration came about.

    Attributes:
        label: the configuration.
        facts: (name, value) of the model.
        runs: a row per run: name, seed, checkpoint, probe accuracies.
        recipe: of its training, as YAML; "" if this tool did not train it.
        probe: settings as (dotted key, value).
        data: (test set, SHA-256 of its images).
        versions, measured: software, and when.
        commands: shell commands, in order.
        remarks: what the commands cannot say.
    """

    label: str
    facts: tuple[tuple[str, str], ...]
    runs: Block
    recipe: str
    probe: tuple[tuple[str, str], ...]
    data: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    measured: str
    commands: str
    remarks: tuple[str, ...]


def model_part(label: str, mine: Sequence[SeedGroup]) -> ModelPart:
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
    probe = model.get("probe") or {}
    settings = {"trained on": probe.get("dataset"), "images": probe.get("n_train")}
    commands, others = _commands(runs)
    return ModelPart(
        label=label,
        facts=tuple(model_facts(mine)),
        runs=_runs(runs),
        recipe=recipe_of(records[0]),
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
        commands=commands,
        remarks=(*others, *_remarks(records, commands)),
    )


def model_facts(mine: Sequence[SeedGroup]) -> list[tuple[str, str]]:
    """(name, value) of what is known of a configuration; what is not known is left out."""
    model = mine[0].model
    training = training_of(model)
    seeds = list(dict.fromkeys(training_of(r.model).get("seed") for m in mine for r in m.records))
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


def _field(mine: Sequence[SeedGroup]) -> str:
    """The theoretical field of a local representation: measured by `rf`, or in the name."""
    for m in mine:
        if "fields" in m.about.pictures and (fields := read_fields(m.records[0])):
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

    seeds = [training_of(model).get("seed") for model in models]
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


def _of_run(records: Sequence[Record]) -> str:
    """The commands that train and measure one run again, a line each unless they are long."""
    by_data: dict[str, list[Record]] = {}
    for record in records:
        by_data.setdefault(record.dataset["name"], []).append(record)
    found = [command for group in by_data.values() for command in commands_of(group)]
    return "\n".join(dict.fromkeys(found))  # training comes with every data set


def _nameless(record: Record) -> Record:
    """A record without what runs of one configuration may differ in."""
    training = {"recipe": recipe_in(record.model) and recipe_in(record.model) | {"seed": 0}}
    return replace(record, model={**record.model, "name": "run", "training": training})


def _commands(runs: Sequence[Sequence[Record]]) -> tuple[str, list[str]]:
    """Commands of the runs, and for which others they hold but for the name and seed."""
    alike: dict[str, list[Sequence[Record]]] = {}
    for records in runs:
        alike.setdefault(_of_run([_nameless(r) for r in records]), []).append(records)
    remarks = []
    for first, *rest in alike.values():
        if rest:
            names = listed([str(records[0].model["name"]) for records in rest])
            name = first[0].model["name"]
            remarks.append(f"{names}: as {name}, with their own seeds and --out.")
    return "\n".join(_of_run(group[0]) for group in alike.values()), remarks


def _remarks(records: Sequence[Record], commands: str) -> list[str]:
    remarks = []
    if f"--recipe {RECIPE}" in commands:
        remarks.append(f"{RECIPE} is the recipe below.")
    words = commands.split()
    if MODEL in words:
        remarks.append(
            f"{MODEL} is the checkpoint of the SHA-256 above; how it was trained is not recorded."
        )
    pictures = [r.suite_config["pictures"] for r in records if "pictures" in r.suite_config]
    if pictures:
        found = several(pictures)
        remarks.append(f"corruption.root holds the ready-made pictures of the fingerprint {found}.")
    return remarks
