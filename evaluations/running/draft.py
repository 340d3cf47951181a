"""The record of one suite while it is filled: begun, continued, added to, finished."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from robustbench_coss.datasets.geometry import geometry_of
from robustbench_coss.encoders.base import parameters
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.protocol import Condition, Suite
from robustbench_coss.evaluations.running.images import doubt_about, order_of
from robustbench_coss.evaluations.running.job import Opened
from robustbench_coss.evaluations.running.places import Names, lock_path, own_record, partial_path
from robustbench_coss.evaluations.running.precision import Arithmetic
from robustbench_coss.evaluations.running.units import Measured, Unit, units
from robustbench_coss.files import alone, remove_leftovers, sha256_of
from robustbench_coss.machine.environment import versions
from robustbench_coss.records.record import (
    SCHEMA,
    Cell,
    Check,
    Record,
    arithmetic,
    read_record,
    record_path,
    variant_of,
    write_record,
)
from robustbench_coss.records.training import with_recipe


@dataclass(frozen=True)
class Finished:
    """A condition that is measured and on disk.

    Attributes:
        suite: its name.
        cell: the outcomes.
        record: path of the record, once that is complete.
        so_far: the record's content by now.
    """

    suite: str
    cell: Cell
    record: Path
    so_far: Record


class Draft:
    """The record of one suite while it is filled.

    Args:
        of: what else names it.
        earlier: whether what an earlier call left on disk may be taken.

    Attributes:
        begun: whether conditions of this record were on disk.

    Raises:
        CossError: as `own_record`.
    """

    def __init__(
        self, suite: Suite, path: Path, key: str, how: Arithmetic, of: Names, earlier: bool = True
    ) -> None:
        self.suite, self.path, self.key, self.how, self.earlier = suite, path, key, how, earlier
        self.record: Record
        self.conditions: list[Condition] = []
        self.counts: dict[str, int] = {}
        self.doubts: list[Check] = []
        self._parts: dict[str, dict[int, Measured]] = defaultdict(dict)
        self._lines: dict[str, str] = {}
        self.up_to_date = False
        begun, found = (own_record(place, key, of) for place in (partial_path(path), path))
        if earlier and found is not None and found.complete:
            self.record, self.up_to_date = found, True
        self.begun = self.up_to_date or (earlier and begun is not None)

    def on_disk(self) -> Iterator[Finished]:
        """The cells of a record that is up to date, or that were measured before."""
        yield from (self._finished(cell) for cell in self.record.cells)

    def tidy(self) -> None:
        """Remove what a process left that was killed after it had written the record."""
        partial = partial_path(self.path)
        remove_leftovers(self.path.parent)
        if partial.exists():
            # Where nothing can be written, or another process measures it again, it may stay.
            with suppress(CossError, OSError), alone(lock_path(self.path), "at work"):
                partial.unlink(missing_ok=True)

    def _finished(self, cell: Cell) -> Finished:
        return Finished(self.suite.name, cell, self.path, self.record)

    def start(self, opened: Opened) -> None:
        """Begin a record, with the cells of a partial one where they still hold.

        Raises:
            CossError: the suite lists a condition twice.
        """
        suite = self.suite
        self.conditions = suite.conditions(opened.subject)
        self.counts = {c.name: len(opened.measured_on(suite, c)[1]) for c in self.conditions}
        doubts = [*opened.doubts, doubt_about(opened.unreadable(suite))]
        self.doubts = [doubt for doubt in doubts if doubt is not None]
        if len({c.name for c in self.conditions}) != len(self.conditions):
            raise CossError(
                f"suite {suite.name!r} lists a condition twice; report it to its author"
            )
        self.record = Record(
            suite=suite.name,
            suite_version=suite.version,
            suite_config=suite.config(),
            model=describe_model(opened),
            dataset=describe_images(opened, suite, self.conditions),
            seed=opened.request.seed,
            versions=versions(),
            device="",  # known once something was measured
            index=np.asarray(opened.images.index, dtype=np.int32),
            label=opened.images.labels.numpy().astype(np.int32),
            key=self.key,
            precision=self.how.precision,
            tf32=self.how.tf32,
            compiled=self.how.compiled,
            metrics=suite.metrics(self.conditions),
            axis=suite.axis,
            about=suite.about.stored(),
            options=_plain(
                f"the options of suite {suite.name!r}", opened.request.options.get(suite.name, {})
            ),
        )
        if self.earlier:
            self._take_over()

    def _take_over(self) -> None:
        try:
            found = read_record(partial_path(self.path))
        except CossError:  # none, or damaged: start from the first condition
            return
        # One record states one set of versions, so cells made with others are measured again.
        if found.key != self.key or found.versions != self.record.versions:
            return
        known = {c.name for c in self.conditions}
        self.record.cells = [cell for cell in found.cells if cell.condition in known]
        self.record.extra, self.record.device = found.extra, found.device

    @property
    def _todo(self) -> list[Condition]:
        done = {cell.condition for cell in self.record.cells}
        return [c for c in self.conditions if c.name not in done]

    @property
    def open_images(self) -> int:
        """Image passes that are left."""
        return sum(self.counts[condition.name] for condition in self._todo)

    def units(self, shard: int | None = None) -> list[Unit]:
        """What is left to measure, on up to `shard` images at a time."""
        return units(self.suite, self._todo, self.record.cells, self.counts, shard)

    def add(self, unit: Unit, found: Measured) -> Iterator[Finished]:
        """Take in a condition on a shard; gives its cell, now on disk, if it was the last shard,
        and then those derived if it was the last cell.
        """
        parts = self._parts[found.condition.name]
        parts[unit.start] = found
        done = sum(len(next(iter(p.columns.values()))) for p in parts.values())
        if done < self.counts[found.condition.name]:
            return
        pieces = [parts[start] for start in sorted(parts)]
        nonfinite = sum(piece.nonfinite for piece in pieces)
        cell = Cell(
            found.condition.name,
            found.condition.group,
            found.condition.level,
            {k: np.concatenate([p.columns[k] for p in pieces]) for k in found.columns},
            sum(piece.seconds for piece in pieces),
            f"{nonfinite:,} outputs of the model were NaN or infinite" if nonfinite else "",
            found.condition.stage,
            found.condition.kind,
        )
        del self._parts[found.condition.name]
        place = {c.name: i for i, c in enumerate(self.conditions)}
        self.record.cells = sorted([*self.record.cells, cell], key=lambda c: place[c.condition])
        self.record.extra = found.summary
        devices = dict.fromkeys(self.record.device.split("; ")) if self.record.device else {}
        self.record.device = "; ".join(devices | dict.fromkeys(p.device for p in pieces))
        write_record(partial_path(self.path), self.record, self._lines)
        yield self._finished(cell)
        yield from self.finish()

    def finish(self) -> Iterator[Finished]:
        """Once no condition is left: derive, check and keep the record; gives derived cells."""
        if self._todo:
            return
        record = self.record
        derived = self.suite.derived(record.cells)
        _note_sizes(record, derived)
        record.cells = [*record.cells, *derived]
        record.checks = [*self.suite.checks(record.cells), *self.doubts]
        record.complete = True
        record.created = datetime.now(UTC).isoformat(timespec="seconds")
        write_record(self.path, record, self._lines)
        partial_path(self.path).unlink(missing_ok=True)
        yield from (self._finished(cell) for cell in derived)


def _plain(what: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON has them. Of a path only the name: where a folder lies is not the measurement.

    Raises:
        CossError: JSON has no form for one of them.
    """

    def spelled(value: Any) -> str:
        if isinstance(value, Path):
            return value.name
        raise TypeError(f"{type(value).__name__} {value!r}")

    try:
        return dict(json.loads(json.dumps(dict(values), default=spelled, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise CossError(f"{what} cannot be written as JSON ({error})") from error


def draft(opened: Opened, suite: Suite) -> Draft:
    """The record of a suite, not begun, or as it is on disk if that is up to date."""
    checkpoint, request, how = opened.checkpoint, opened.request, opened.arithmetic(suite)
    key = record_key(
        checkpoint.sha256,
        opened.classifier_key,
        describe_images(opened, suite),
        (suite.name, suite.version, suite.config()),
        request.seed,
        how,
        answers=checkpoint.answers,
    )
    settings = request.probe.settings() if checkpoint.head is None else {}
    probe = {"settings": settings, "in_place_of_head": opened.in_place_of_head}
    path = record_path(
        Path(request.results),
        checkpoint.name,
        checkpoint.sha256,
        opened.dataset,
        suite.name,
        variant_of(
            probe,
            {"name": opened.dataset, "fingerprint": opened.images.test.fingerprint},
            arithmetic(how.precision, how.tf32, how.compiled),
        ),
    )
    of = Names(checkpoint.name, checkpoint.sha256, opened.dataset, suite.name)
    return Draft(suite, path, key, how, of, checkpoint.recognised)


def record_key(
    checkpoint_sha256: str,
    classifier_key: str,
    dataset: Mapping[str, Any],
    suite: tuple[str, int, Mapping[str, Any]],
    seed: int,
    how: Arithmetic,
    schema: int = SCHEMA,
    answers: str = "",
) -> str:
    """Digest of everything that determines the outcomes in a record.

    Args:
        classifier_key: as `Opened.classifier_key`.
        dataset: as `describe_images` gives it.
        suite: name, version and settings.
        how: plain 32 bit adds nothing, so that keys of schema 3 are those of 4.
        schema: of the record. Keys of 3 are those of 2: what it added determines no outcome.
        answers: as `Checkpoint.answers`.
    """
    name, version, config = suite
    return sha256_of(
        {
            **({"answers": answers} if answers else {}),
            "schema": min(schema, 2),
            "checkpoint": checkpoint_sha256,
            "probe": classifier_key,
            "dataset": dataset["fingerprint"],
            "size": dataset["size"],
            "n": dataset["n"],
            **{k: dataset[k] for k in ("geometry", "unreadable", "train") if k in dataset},
            **{part: dataset[part]["images"] for part in ("image_list",) if part in dataset},
            **({"others": others} if (others := _of_others(dataset)) else {}),
            "suite": name,
            "version": version,
            "config": dict(config),
            "seed": seed,
            **({"precision": how.precision} if how.precision != "32" else {}),
            **({"tf32": True} if how.tf32 else {}),
            **({"compiled": True} if how.compiled else {}),
        }
    )


def _of_others(dataset: Mapping[str, Any]) -> list[list[Any]]:
    """What of other images determines outcomes; derived ones follow from them."""
    others = dataset.get("others", ())
    return [[o["name"], o["fingerprint"], o["n"]] for o in others if o["fingerprint"]]


def _note_sizes(record: Record, derived: Sequence[Cell]) -> None:
    """State of derived cells how many numbers they hold where it is not one for each image."""
    sizes = {cell.condition: len(next(iter(cell.outcomes.values()))) for cell in derived}
    told = [
        {"name": name, "fingerprint": "", "n": size, "conditions": [name]}
        for name, size in sizes.items()
        if size != len(record.index)
    ]
    if told:
        record.dataset["others"] = [*record.dataset.get("others", ()), *told]


def describe_images(
    opened: Opened, suite: Suite, conditions: Sequence[Condition] = ()
) -> dict[str, Any]:
    """What a record says of the images; `Record.dataset`."""
    test, request = opened.images.test, opened.request
    described: dict[str, Any] = {
        "name": opened.dataset,
        "role": "test",
        "fingerprint": test.fingerprint,
        "size": test.size,
        "classes": len(test.classes),
        "n": len(opened.images.index),
        "limit": request.limit,
    }
    train = opened.images.others["train"]
    # Of a probe, its own key has them.
    if opened.checkpoint.head is not None and suite.learns() and not isinstance(train, CossError):
        described["train"] = train.fingerprint
    if geometry := geometry_of(test):
        described["geometry"] = geometry
    if unreadable := opened.unreadable(suite):
        described["unreadable"] = unreadable
    if request.image_list is not None:
        file, images = Path(request.image_list).name, sha256_of(sorted(opened.images.index))
        described["image_list"] = {"file": file, "images": images}
    if others := suite.image_sets():
        described["others"] = [
            {
                "name": name,
                "fingerprint": images.fingerprint,
                "n": len(order_of(images, opened.images, request)),
                "conditions": [c.name for c in conditions if c.images == name],
            }
            for name, images in others.items()
        ]
    return described


def describe_model(opened: Opened) -> dict[str, Any]:
    """What a record says of the model; `Record.model`."""
    checkpoint = opened.checkpoint
    metadata = checkpoint.metadata
    training = metadata.get("training") or {}
    described = {
        "name": checkpoint.name,
        "checkpoint_sha256": checkpoint.sha256,
        "method": metadata.get("method"),
        "arch": metadata["arch"],
        "width": metadata["width"],
        "parameters": parameters(checkpoint.encoder),
        "encoder": metadata.get("encoder"),
        "dataset": metadata.get("dataset"),
        "training": training,
        "probe": opened.probe_summary
        | ({"in_place_of_head": True} if opened.in_place_of_head else {}),
    }
    stated = ("file", "file_sha256", "reading", "control")
    described |= {k: metadata[k] for k in stated if k in metadata}
    if checkpoint.answers:
        described["answers_sha256"] = checkpoint.answers
    if "recipe" not in training and metadata.get("mlp") is not None:  # a recipe says it itself
        described["mlp"] = metadata["mlp"]
    return with_recipe(described, int(metadata["size"]))
