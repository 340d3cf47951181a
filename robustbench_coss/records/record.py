"""Records: what one (model, data set, suite) measurement left on disk.

A record holds the outcome of every sample under every condition and all that is needed to
trust and repeat it. Tables, figures and comparisons read records and nothing else.

A record is one JSON file. The models here say its form: code that makes a record and every reader
are held to them, and `docs/record-schema.json` is made from them. What fields say of each other is
`consistency`'s, which every reader holds them to as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic.functional_serializers import PlainSerializer

from robustbench_coss.errors import CossError
from robustbench_coss.files import canonical_json, sha256_of, slug, write_atomically
from robustbench_coss.reading import MOST_JSON, parse_json, read_bytes
from robustbench_coss.records.columns import COUNT, Column
from robustbench_coss.records.consistency import check_consistency
from robustbench_coss.records.fields import (
    CONFIG,
    Count,
    Digest,
    Heading,
    Name,
    Number,
    Positive,
    Text,
    YesNo,
    all_there,
    shaped,
)
from robustbench_coss.records.metadata import DataSet, Model
from robustbench_coss.records.migrate import migrate

SCHEMA: Literal[4] = 4
MIGRATED = (1, 2, 3)  # older schemas, read as well
Better = Literal["higher", "lower", ""]
Precision = Literal["32", "bf16", "fp16"]
MOST_IMAGES = 2**26
STANDARD_PROBE = {"kind": "logistic", "l2_values": 12, "max_train": None, "seed": 0}
LONGEST_VALUE = 60  # characters of a wrong value that an error shows


@dataclass(frozen=True, config=CONFIG)
class Metric:
    """A number that a suite reports: the mean of one outcome column over conditions and samples, or
    a statistic of several columns, averaged over conditions."""

    _all_there = model_validator(mode="before")(all_there)

    name: Name
    """Key, unique in the suite (corruption_top1)."""
    label: Heading
    """Heading for tables and axes (Corruption top-1)."""
    column: Name
    """The column of outcomes that is averaged; or, where the conditions have none of that name,
    nll, brier, ece, auroc or accuracy_at_80, computed from probabilities."""
    conditions: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Names of the conditions averaged over; each weighs the same."""
    better: Better = "higher"
    """Which values are better; empty where neither are."""
    percent: YesNo = True
    """Whether the value is a share in [0, 1], shown in %."""
    headline: YesNo = True
    """Whether the leaderboard shows it by default."""


@dataclass(frozen=True, config=CONFIG)
class Axis:
    """How a suite's conditions are drawn: one panel per group, `level` along x."""

    _all_there = model_validator(mode="before")(all_there)

    label: Heading
    """What x is, with its unit ("severity", "epsilon (/255)")."""
    column: Name = "correct"
    """Column of outcomes along y."""
    column_label: Name = "top-1 (%)"
    """What y is, with its unit."""
    percent: YesNo = True
    """Whether y is a share in [0, 1], shown in %."""


@dataclass(config=CONFIG)
class Cell:
    """Outcomes of all samples under one condition."""

    _all_there = model_validator(mode="before")(all_there)

    condition: Name
    """Name of the condition, unique in the record (gaussian_noise@3)."""
    group: Text
    """Panel of the figure it belongs to (noise); empty for the reference, the undisturbed image,
    which every panel shows at its level."""
    level: Number
    """Position on the suite's axis, in the unit that `axis.label` names: severity 1 to 5, masked
    share, epsilon in 1/255 (L2: norm of pixels in [0, 1]), crop area as a share."""
    outcomes: Annotated[dict[str, Column], Field(min_length=1)]
    """Columns of outcomes by name, in the order of `index`: `correct` is whether the top-1 class is
    the label. Of probabilities p that the model gives, int8 codes, which -128 says there are none
    of: `confidence` (of the answer) and `true_class`, round(127 asinh(l / 2) / asinh(16)) with
    l = ln(p / (1 - p)) within ±32; `other_squares`, round(508 s) with s the sum of p² over all
    classes but the answer."""
    wall_time_s: Annotated[Number, Field(ge=0), PlainSerializer(lambda s: round(s, 3))] = 0.0
    """How long the measurement took, in seconds; an equal share for conditions that are measured
    together, 0 for derived cells."""
    problem: Text = ""
    """What makes the outcomes doubtful (outputs that are NaN or infinite); empty if nothing."""
    stage: Text = ""
    """Stage of the encoder that the condition is about, where that is not the last."""
    kind: Text = ""
    """What is done, at several levels (gaussian_noise); the group, where there is only one kind in
    it."""

    def __post_init__(self) -> None:
        self.kind = self.kind or self.group


@dataclass(config=CONFIG)
class Check:
    """A sanity check of the measurement; a failed one marks the numbers in every table."""

    _all_there = model_validator(mode="before")(all_there)

    name: Heading
    """What should hold."""
    passed: YesNo
    """Whether it does."""
    detail: Text
    """The numbers behind it."""


@dataclass(config=CONFIG)
class Record:
    """One measurement of one model on one data set by one suite of robustbench-coss: the outcome of
    every sample under every condition, and all that is needed to trust and repeat it.
    """

    _all_there = model_validator(mode="before")(all_there)

    suite: Name
    """Name of the suite."""
    suite_version: Positive
    """Version of the suite; raised whenever outcomes change."""
    suite_config: dict[str, Any]
    """Settings of the suite that determine the outcomes."""
    model: Annotated[dict[str, Any], shaped(Model)]
    """The model that was measured."""
    dataset: Annotated[dict[str, Any], shaped(DataSet)]
    """The images that were measured."""
    seed: Count
    """Seed of the evaluation's draws; the training seed is in `model.training.recipe.seed`."""
    versions: dict[str, Text]
    """Versions of Python and of the packages that outcomes depend on."""
    device: Text
    """What was computed on, in words; several separated by semicolons."""
    index: Column
    """Data set index of each sample, int32."""
    label: Column
    """True label of each sample, int32, from 0."""
    key: Digest
    """Digest of everything that determines the outcomes; an equal key means up to date."""
    metrics: list[Metric]
    """How the suite wants to be summarised."""
    axis: Axis
    """How the suite wants to be drawn."""
    cells: list[Cell] = Field(default_factory=list)
    """Outcomes, in the order measured; derived ones last."""
    checks: list[Check] = Field(default_factory=list)
    """Sanity checks."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Facts about the model that are no outcome of single images; those under `facts`, each with
    `label` and `value`, are shown in tables."""
    about: dict[str, Any] = Field(default_factory=dict)
    """The suite's own wording at the time: title, captions, order, labels."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The options that the user gave the suite, by name; of a folder only the name."""
    created: Text = ""
    """UTC time of completion, ISO 8601; empty while it is not complete."""
    complete: YesNo = False
    """False while conditions are missing."""
    precision: Precision = "32"
    """What the model multiplied in: 32 bit floating point, or bf16 or fp16 with weights in 32."""
    tf32: YesNo | None = False
    """Whether a GPU might round 32-bit factors to TF32; null in records from before schema 4, which
    do not say: PyTorch's default lets it in convolutions, and not in matrix products."""
    compiled: YesNo = False
    """Whether the model was compiled (torch.compile)."""
    schema: Literal[4] = SCHEMA
    """Version of this form."""

    def column(self, condition: str, name: str) -> NDArray[Any]:
        """Outcome column of a condition. Raises KeyError when there is none."""
        for cell in self.cells:
            if cell.condition == condition:
                return cell.outcomes[name]
        raise KeyError(condition)

    def per_sample(self, metric: Metric) -> NDArray[np.float64]:
        """[n] float64: the metric of each sample, averaged over its conditions."""
        columns = [self.column(name, metric.column) for name in metric.conditions]
        return np.asarray(np.mean(np.stack(columns).astype(np.float64), axis=0))

    def arithmetic(self) -> str:
        """As the function of this name."""
        return arithmetic(self.precision, self.tf32, self.compiled)

    def digest(self) -> str:
        """Hash of all but timing: two measurements with one digest gave the same outcomes."""
        content = to_json(self)
        content.pop("created")
        for cell in content["cells"]:
            cell.pop("wall_time_s")
        return sha256_of(content)


@cache
def adapter() -> TypeAdapter[Record]:
    """What validates and serialises records."""
    return TypeAdapter(Record)


def to_json(record: Record) -> dict[str, Any]:
    """A record as JSON-able values."""
    content: dict[str, Any] = adapter().dump_python(record)
    return content


def from_json(content: Any, name: str) -> Record:
    """The record with the content of a file, of this schema or an older one.

    Args:
        content: as JSON has it.
        name: of the file, for messages.

    Raises:
        CossError: it does not have the form of a record, or contradicts itself; the first field
            that is wrong is named.
    """
    try:
        return _validated(content)
    except ValueError as error:
        raise CossError(f"{name} is no record: {error}") from error


def _validated(content: Any) -> Record:
    """A record that does not contradict itself. Raises ValueError with what is wrong first."""
    # Columns are of as many values as there are images: nothing longer is inflated.
    data = content.get("dataset") if isinstance(content, dict) else None
    n = data.get("n") if isinstance(data, dict) else None
    if type(n) is int and n > MOST_IMAGES:
        raise ValueError(f"dataset.n: {n} images, at most {MOST_IMAGES:,} are read")
    record = _formed(content, {COUNT: {n, *_other_sizes(data)} if type(n) is int else None})
    check_consistency(record)
    return record


def _other_sizes(data: Any) -> set[int]:
    """Lengths of columns of conditions on other images; ValueError if one is out of reason."""
    others = data.get("others", []) if isinstance(data, dict) else []
    entries = others if isinstance(others, list) else []
    told = [each.get("n") for each in entries if isinstance(each, dict)]
    sizes = {n for n in told if type(n) is int}
    if (largest := max(sizes, default=0)) > MOST_IMAGES:
        raise ValueError(f"dataset.others: {largest} images, at most {MOST_IMAGES:,} are read")
    return sizes


def _formed(content: Any, context: dict[str, Any]) -> Record:
    """A record. Raises ValueError with the first field that is wrong."""
    try:
        if isinstance(content, dict):
            if type(content.get("schema")) is not int:  # 2.0 and True equal whole numbers
                raise ValueError("schema: it is no whole number")
            if content["schema"] in MIGRATED:
                content = migrate(content, SCHEMA)
        return adapter().validate_python(content, context=context)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"])
        value = repr(first["input"])
        got = f", got {value}" if len(value) <= LONGEST_VALUE else ""
        what = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where.lstrip('.') or 'the file'}: {what}{got}") from error
    except (KeyError, TypeError, AttributeError) as error:  # too odd to be brought to today's form
        raise ValueError(f"{type(error).__name__}: {error}"[:LONGEST_VALUE]) from error


def arithmetic(precision: str, tf32: bool | None, compiled: bool) -> str:
    """What numbers depend on beyond the last digits: "32", "bf16", "tf32, compiled", …"""
    said = "tf32" if tf32 else precision
    return f"{said}, compiled" if compiled else said


def record_path(
    results: Path, model: str, checkpoint_sha256: str, dataset: str, suite: str, variant: str = ""
) -> Path:
    """Where a record lies: `results/records/<model>-<hash>/<data set>/<suite>.json`.

    Args:
        variant: as `variant_of`, behind the data set.
    """
    folder = f"{slug(model)}-{checkpoint_sha256[:8]}"
    return results / "records" / folder / f"{slug(dataset)}{variant}" / f"{slug(suite)}.json"


def path_of(record: Record) -> Path:
    """Where a record lies in its results folder."""
    model, dataset = record.model, record.dataset["name"]
    variant = variant_of(model["probe"], record.dataset, record.arithmetic())
    return record_path(
        Path(), model["name"], model["checkpoint_sha256"], dataset, record.suite, variant
    )


def variant_of(probe: Mapping[str, Any], dataset: Mapping[str, Any], arithmetic: str) -> str:
    """What else has a folder of its own: a probe other than the default, a probe in place of the
    model's own head, pictures of the data set that is whatever lies in a folder, and another
    precision than 32 bit.

    Args:
        arithmetic: as `Record.arithmetic`.
        probe: as `Record.model` has it, or what of it is known before it is trained.
        dataset: name and fingerprint, as `Record.dataset`.
    """
    parts = []
    settings = probe.get("settings", {})
    if "kind" in settings and any(settings.get(k, v) != v for k, v in STANDARD_PROBE.items()):
        parts.append(f"{settings['kind']}-{sha256_of(settings)[:8]}")
    elif probe.get("in_place_of_head"):
        parts.append("probe")
    if dataset["name"] == "imagefolder":
        parts.append(dataset["fingerprint"][:8])
    if arithmetic != "32":
        parts.append(arithmetic)
    return "".join(f"+{slug(part)}" for part in parts)


def write_record(path: Path, record: Record, lines: dict[str, str] | None = None) -> None:
    """Write a record atomically, a line for `extra`, for `about` and for each cell.

    Args:
        lines: of its cells, by condition, as they were written before; the others' are added. So
            a record that grows by cells compresses none of them twice.

    Raises:
        CossError: it cannot be written.
    """
    lines = {} if lines is None else lines
    known = {i for i, cell in enumerate(record.cells) if cell.condition in lines}
    content = adapter().dump_python(record, exclude={"cells": known})
    lines |= {cell["condition"]: canonical_json(cell) for cell in content.pop("cells")}
    # `about` as it is: its panels are drawn in the order of its keys.
    about = json.dumps(content.pop("about"), separators=(",", ":"), allow_nan=False)
    others = {"extra": canonical_json(content.pop("extra")), "about": about}
    head = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
    body = ",\n".join("  " + lines[cell.condition] for cell in record.cells)
    rest = "".join(f' "{name}": {line},\n' for name, line in others.items())
    write_atomically(path, f'{head[:-2]},\n{rest} "cells": [\n{body}\n ]\n}}\n')


def read_record(path: Path) -> Record:
    """Read a record. Raises CossError if the file is unreadable, damaged or of another schema."""
    raw = read_bytes(path, MOST_JSON)
    try:
        content = parse_json(raw)
        schema = content.get("schema") if isinstance(content, dict) else None
        if type(schema) is int and schema not in (*MIGRATED, SCHEMA):
            raise CossError(
                f"record {path} has schema {schema}, this version reads {SCHEMA}; "
                "measure it again with `coss-bench eval … --force`"
            )
        return _validated(content)
    except (ValueError, RecursionError) as error:
        raise CossError(
            f"record {path} is damaged ({error}); delete it and run `coss-bench eval` again"
        ) from error


def find_records(results: Path) -> Iterator[tuple[Path, Record]]:
    """Every complete record below a results folder, in path order."""
    for path in sorted((results / "records").glob("*/*/*.json")):
        if path.name.startswith(".") or path.name.endswith(".partial.json"):
            continue
        record = read_record(path)
        if record.complete:
            yield path, record
