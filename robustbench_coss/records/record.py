"""Records: what one (model, data set, suite) measurement left on disk.

A record holds the outcome of every sample under every condition and all that is needed to
trust and repeat it. Tables, figures and comparisons read records and nothing else.

A record is one JSON file. Outcome columns are arrays, stored as zlib-compressed,
base64-encoded bytes (booleans as packed bits), so a file stays small, readable and diffable.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.files import canonical_json, sha256_of, slug, write_atomically
from robustbench_coss.records.migrate import migrate

SCHEMA = 3
MIGRATED = (1, 2)  # older schemas, read as well
Column = NDArray[Any]


@dataclass(frozen=True)
class Metric:
    """A number that a suite reports: the mean of one outcome column over conditions and samples.

    Attributes:
        name: key, unique within the suite ("corruption_top1").
        label: heading for tables and axes ("Corruption top-1").
        column: the outcome column that is averaged.
        conditions: names of the conditions averaged over; each weighs the same.
        better: "higher", "lower" or "" where neither is better.
        percent: whether the value is a share, shown in %.
        headline: whether the leaderboard shows it by default.
    """

    name: str
    label: str
    column: str
    conditions: tuple[str, ...]
    better: str = "higher"
    percent: bool = True
    headline: bool = True


@dataclass(frozen=True)
class Axis:
    """How a suite's conditions are drawn: one panel per group, `level` along x.

    Attributes:
        label: x label with unit ("severity", "epsilon (/255)").
        column: outcome column along y.
        column_label: y label ("top-1 (%)").
        percent: whether y is a share, shown in %.
    """

    label: str
    column: str = "correct"
    column_label: str = "top-1 (%)"
    percent: bool = True


@dataclass
class Cell:
    """Outcomes under one condition.

    Attributes:
        condition: the name, unique in the record ("gaussian_noise@3").
        group: panel it belongs to ("noise"). The empty group is the reference condition (the
            undisturbed image), shown at its level in every panel.
        level: position on the suite's axis (severity, mask ratio, epsilon in 1/255, crop area …).
        outcomes: column name to [n] array (bool, integer or float), sample order as `Record.index`.
        wall_time_s: seconds the measurement took.
        problem: what makes these outcomes doubtful ("3 of 500 outputs are NaN or infinite"), or "".
        stage: the encoder's stage that the condition is about, where that is not the last.
        kind: what is done, at several levels ("gaussian_noise"): the group, where there is only
            one kind in it.
    """

    condition: str
    group: str
    level: float
    outcomes: dict[str, Column]
    wall_time_s: float = 0.0
    problem: str = ""
    stage: str = ""
    kind: str = ""

    def __post_init__(self) -> None:
        self.kind = self.kind or self.group


@dataclass
class Check:
    """A sanity check of a measurement; a failed one marks the record in every table."""

    name: str
    passed: bool
    detail: str


@dataclass
class Record:
    """One measurement of one model on one data set by one suite.

    Attributes:
        suite, suite_version, suite_config: what was measured and with which settings.
        model: name, checkpoint_sha256, method, arch, width, parameters, encoder (online/teacher),
            training settings, probe settings and hash.
        dataset: name, role, fingerprint, size, classes, n (samples measured), limit.
        seed: of the evaluation's draws.
        versions: of Python and the packages that the numbers depend on.
        device: in words.
        index: [n] int32 data set indices of the samples.
        label: [n] int32 true labels.
        cells: outcomes, in the order measured.
        metrics, axis: how the suite wants to be summarised and drawn.
        checks: sanity checks.
        extra: JSON-able facts about the model that are no outcome of single images.
        about: the suite's own wording at the time, JSON-able: title, captions, order, labels …;
            empty in records of older schemas and of suites without any.
        options: keyword arguments that the user gave the suite, JSON-able.
        key: digest of everything that determines the outcomes; an equal key means up to date.
        created: ISO 8601 UTC time of completion.
        complete: false while conditions are still missing.
    """

    suite: str
    suite_version: int
    suite_config: dict[str, Any]
    model: dict[str, Any]
    dataset: dict[str, Any]
    seed: int
    versions: dict[str, str]
    device: str
    index: Column
    label: Column
    key: str
    metrics: list[Metric]
    axis: Axis
    cells: list[Cell] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    created: str = ""
    complete: bool = False
    schema: int = SCHEMA

    def column(self, condition: str, name: str) -> Column:
        """Outcome column of a condition. Raises KeyError when there is none."""
        for cell in self.cells:
            if cell.condition == condition:
                return cell.outcomes[name]
        raise KeyError(condition)

    def per_sample(self, metric: Metric) -> NDArray[np.float64]:
        """[n] float64: the metric of each sample, averaged over its conditions."""
        columns = [self.column(name, metric.column) for name in metric.conditions]
        return np.asarray(np.mean(np.stack(columns).astype(np.float64), axis=0))

    def digest(self) -> str:
        """Hash of all but timing: two measurements with one digest gave the same outcomes."""
        content = to_json(self)
        content.pop("created")
        for cell in content["cells"]:
            cell.pop("wall_time_s")
        return sha256_of(content)


def record_path(
    results: Path, model: str, checkpoint_sha256: str, dataset: str, suite: str
) -> Path:
    """Where a record lies: `results/records/<model>-<hash>/<dataset>/<suite>.json`."""
    folder = f"{slug(model)}-{checkpoint_sha256[:8]}"
    return results / "records" / folder / slug(dataset) / f"{slug(suite)}.json"


def _encode(column: Column) -> dict[str, Any]:
    array = np.asarray(column)
    kind = array.dtype.name
    raw = (
        np.packbits(array).tobytes()
        if kind == "bool"
        else array.astype("<" + array.dtype.str[1:]).tobytes()
    )
    return {
        "dtype": kind,
        "n": int(array.size),
        "data": base64.b64encode(zlib.compress(raw, 9)).decode(),
    }


_DTYPES = {"bool", "int8", "int16", "int32", "int64", "float16", "float32", "float64"}


def _decode(stored: dict[str, Any]) -> Column:
    kind, n = stored["dtype"], int(stored["n"])
    if kind not in _DTYPES:
        raise ValueError(f"dtype {kind!r}")
    width = 1 if kind == "bool" else np.dtype(kind).itemsize * 8
    expected = (n * width + 7) // 8
    # Bounded: a forged file cannot make us inflate more than it declares.
    inflater = zlib.decompressobj()
    raw = inflater.decompress(base64.b64decode(stored["data"], validate=True), expected + 1)
    if len(raw) != expected:
        raise ValueError(f"{len(raw)} bytes where {expected} were declared")
    if kind == "bool":
        return np.unpackbits(np.frombuffer(raw, np.uint8), count=n).astype(bool)
    return np.frombuffer(raw, np.dtype(kind).newbyteorder("<")).astype(kind)


def to_json(record: Record) -> dict[str, Any]:
    """A record as JSON-able values."""
    content = {k: v for k, v in vars(record).items() if k not in {"index", "label", "cells"}}
    content["metrics"] = [asdict(m) | {"conditions": list(m.conditions)} for m in record.metrics]
    content["axis"] = asdict(record.axis)
    content["checks"] = [asdict(c) for c in record.checks]
    content["index"] = _encode(record.index)
    content["label"] = _encode(record.label)
    content["cells"] = [
        {
            "condition": c.condition,
            "group": c.group,
            "level": c.level,
            "wall_time_s": round(c.wall_time_s, 3),
            "problem": c.problem,
            "stage": c.stage,
            "kind": c.kind,
            "outcomes": {name: _encode(column) for name, column in c.outcomes.items()},
        }
        for c in record.cells
    ]
    return content


def from_json(content: dict[str, Any]) -> Record:
    """Inverse of `to_json`. Raises KeyError, TypeError or ValueError on malformed content."""
    content = dict(content)
    content["metrics"] = [
        Metric(**m | {"conditions": tuple(m["conditions"])}) for m in content["metrics"]
    ]
    content["axis"] = Axis(**content["axis"])
    content["checks"] = [Check(**c) for c in content["checks"]]
    content["index"], content["label"] = _decode(content["index"]), _decode(content["label"])
    content["cells"] = [
        Cell(
            c["condition"],
            c["group"],
            c["level"],
            {name: _decode(column) for name, column in c["outcomes"].items()},
            c["wall_time_s"],
            c["problem"],
            c["stage"],
            c["kind"],
        )
        for c in content["cells"]
    ]
    return Record(**content)


def write_record(path: Path, record: Record) -> None:
    """Write a record atomically, a line for `extra`, for `about` and for each cell.

    Raises:
        CossError: it cannot be written.
    """
    content = to_json(record)
    cells = content.pop("cells")
    lines = {name: canonical_json(content.pop(name)) for name in ("extra", "about")}
    head = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
    body = ",\n".join("  " + canonical_json(cell) for cell in cells)
    rest = "".join(f' "{name}": {line},\n' for name, line in lines.items())
    write_atomically(path, f'{head[:-2]},\n{rest} "cells": [\n{body}\n ]\n}}\n')


def read_record(path: Path) -> Record:
    """Read a record. Raises CossError if the file is unreadable, damaged or of another schema."""
    with explain_os_errors("read", path):
        raw = path.read_bytes()
    try:
        content = json.loads(raw.decode("utf-8"))
        schema = content["schema"]
        if schema not in (*MIGRATED, SCHEMA):
            raise CossError(
                f"record {path} has schema {schema}, this version reads {SCHEMA}; "
                "measure it again with `coss-bench eval … --force`"
            )
        return from_json(migrate(content, SCHEMA))
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise CossError(
            f"record {path} is damaged ({type(error).__name__}: {error}); "
            "delete it and run `coss-bench eval` again"
        ) from error


def find_records(results: Path) -> Iterator[tuple[Path, Record]]:
    """Every complete record below a results folder, in path order."""
    for path in sorted((results / "records").glob("*/*/*.json")):
        if path.name.startswith(".") or path.name.endswith(".partial.json"):
            continue
        record = read_record(path)
        if record.complete:
            yield path, record
