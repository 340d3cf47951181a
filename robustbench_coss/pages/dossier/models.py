"""Where the numbers of a configuration come from, and the commands that make them again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from robustbench_coss.analysis.configurations import SeedGroup
from robustbench_coss.analysis.labels import method_name
from robustbench_coss.figures.receptive_fields import read_fields
from robustbench_coss.pages.dossier.words import counted, flat, listed, pretty, several
from robustbench_coss.records.commands import MODEL, RECIPE, commands_of, recipe_of
from robustbench_coss.records.record import Record, path_of
from robustbench_coss.records.training import recipe_in, training_of
from robustbench_coss.tables.cells import MISSING, percent_text


@dataclass(frozen=True)
class Run:
    """One run: its weights, what its probe got right, where its records lie, how to repeat it.

    Attributes:
        seed, train, validation: as text; a dash where not known. The latter two in %.
        commands: shell commands, in order.
        records: paths below the results folder.
    """

    name: str
    seed: str
    sha256: str
    train: str
    validation: str
    commands: tuple[str, ...]
    records: tuple[str, ...]


@dataclass(frozen=True)
class ModelPart:
    """How one configuration came about.

    Attributes:
        label: the configuration.
        facts: (name, value) of the model.
        runs: by seed.
        recipe: of its training, as YAML; "" if this tool did not train it.
        probe: settings as (dotted key, value).
        data: (test set, SHA-256 of its images).
        versions, measured: software, and when.
        commands: of the first run of those that differ in name and seed alone, in order.
        remarks: what the commands cannot say.
        metadata: the model's entry in the first record, as JSON.
    """

    label: str
    facts: tuple[tuple[str, str], ...]
    runs: tuple[Run, ...]
    recipe: str
    probe: tuple[tuple[str, str], ...]
    data: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    measured: str
    commands: str
    remarks: tuple[str, ...]
    metadata: str


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
        runs=tuple(sorted(map(_run, runs), key=lambda run: (len(run.seed), run.seed, run.name))),
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
        metadata=pretty(model),
    )


def model_facts(mine: Sequence[SeedGroup]) -> list[tuple[str, str]]:
    """(name, value) of what is known of a configuration; what is not known is left out."""
    model = mine[0].model
    training = training_of(model)
    own_head = bool((model.get("probe") or {}).get("own_head"))
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
        ("Classifier", "the model's own head" if own_head else ""),
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


def _run(records: Sequence[Record]) -> Run:
    model = records[0].model
    name, sha256, probe = str(model["name"]), model["checkpoint_sha256"], model.get("probe") or {}
    seed = training_of(model).get("seed")
    shares = (probe.get(f"{part}_top1") for part in ("train", "validation"))
    train, validation = (
        percent_text(share) if isinstance(share, (int, float)) else MISSING for share in shares
    )
    return Run(
        name,
        MISSING if seed is None else str(seed),
        sha256,
        train,
        validation,
        tuple(_of_run(records)),
        tuple(path_of(record).as_posix() for record in records),
    )


def _span(times: Sequence[str]) -> str:
    days = sorted({time[:10] for time in times if time})
    return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""


def _of_run(records: Sequence[Record]) -> list[str]:
    """The commands that train and measure one run again."""
    by_data: dict[str, list[Record]] = {}
    for record in records:
        by_data.setdefault(record.dataset["name"], []).append(record)
    found = [command for group in by_data.values() for command in commands_of(group)]
    return list(dict.fromkeys(found))  # training comes with every data set


def _nameless(record: Record) -> Record:
    """A record without what runs of one configuration may differ in."""
    if not (recipe := recipe_in(record.model)):
        return record
    training = {"recipe": recipe | {"seed": 0}}
    return replace(record, model={**record.model, "name": "run", "training": training})


def _commands(runs: Sequence[Sequence[Record]]) -> tuple[str, list[str]]:
    """Commands of the runs, and for which others they hold but for the name and seed."""
    alike: dict[str, list[Sequence[Record]]] = {}
    for records in runs:
        same = "\n".join(_of_run([_nameless(r) for r in records]))
        alike.setdefault(same, []).append(records)
    remarks = []
    for first, *rest in alike.values():
        if rest:
            names = listed([str(records[0].model["name"]) for records in rest])
            name = first[0].model["name"]
            remarks.append(f"{names}: as {name}, with their own seeds and --out.")
    commands = [command for group in alike.values() for command in _of_run(group[0])]
    return "\n".join(commands), remarks


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
