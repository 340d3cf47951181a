"""Runs suites on a model and leaves records; the only part that knows records, resuming and nodes.

A suite is measured condition by condition, batch by batch. After each condition the partial
record is written, so an interrupted evaluation continues where it stopped, and a finished record
is measured again only if something that determines its outcomes has changed.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from robustbench_coss import registry
from robustbench_coss.datasets.base import Source
from robustbench_coss.encoders.base import parameters
from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.evaluations.probes.linear import ProbeConfig, convergence, probe_path
from robustbench_coss.evaluations.progress import Progress
from robustbench_coss.evaluations.protocol import Condition, Suite
from robustbench_coss.evaluations.running.job import (
    LOCAL_SUITES,
    Job,
    Measured,
    Opened,
    Unit,
    measure_unit,
    train_probe,
    units,
)
from robustbench_coss.files import sha256_of
from robustbench_coss.machine.environment import check_writable, versions
from robustbench_coss.machine.executors import Executor
from robustbench_coss.models.checkpoint import Checkpoint, load_checkpoint
from robustbench_coss.records.about import about_suite, in_order
from robustbench_coss.records.record import (
    SCHEMA,
    Cell,
    Record,
    read_record,
    record_path,
    write_record,
)
from robustbench_coss.records.training import with_recipe

SHARD = 2_000
"""Images of a unit that is handed to another process, about: rounded up to whole batches."""

Load = Callable[[], Checkpoint]


def suite_names(asked: Sequence[str]) -> list[str]:
    """Registered suites for what a user asked for, each once, in the order asked.

    Args:
        asked: names, several in one string separated by commas; "all" stands for every
            registered suite, in reading order.

    Raises:
        CossError: nothing was asked for, or a name is unknown (the nearest ones are given).
    """
    every = registry.names("suite")
    chosen: list[str] = []
    for name in (part.strip() for text in asked for part in text.split(",")):
        if name == "all":
            chosen += in_order({suite: about_suite(suite) for suite in every})
        elif name:
            if name not in every:
                registry.load("suite", name)  # raises, naming the nearest
            chosen.append(name)
    if not chosen:
        known = in_order({suite: about_suite(suite) for suite in every})
        raise CossError(f"no suite was named; known: all, {', '.join(known)}")
    return list(dict.fromkeys(chosen))


def measurable(checkpoint: Checkpoint, suites: Sequence[str]) -> list[str]:
    """Those of some suites that say something of a model: pixels have no local representations."""
    pixels = checkpoint.metadata.get("control") == "pixels"
    return [name for name in suites if not (pixels and name in LOCAL_SUITES)]


def choose_dataset(checkpoint: Checkpoint, dataset: str | None, transfer: bool) -> str:
    """The data set to measure on: the one the model was trained on, or another on purpose.

    Raises:
        CossError: another one is asked for without `transfer`, it is not registered, or none is
            known.
    """
    trained_on = checkpoint.metadata.get("dataset")
    if dataset is None:
        if trained_on is None:
            raise CossError(
                f"{checkpoint.name} does not say what it was trained on; "
                "name a data set with --dataset NAME"
            )
        return str(trained_on)
    registry.load("dataset", dataset)  # a misspelt name is not a wish to transfer
    if trained_on is not None and dataset != trained_on and not transfer:
        raise CossError(
            f"{checkpoint.name} was pretrained on {trained_on!r}, not {dataset!r}; add --transfer "
            f"to train a probe on {dataset!r} and measure there"
        )
    return dataset


def check_run(
    load: Load,
    *,
    dataset: str | None,
    transfer: bool,
    results: Path,
    data_root: Path,
    download: bool,
) -> Checkpoint:
    """Find out before any measurement whether a model can be evaluated, and return it.

    Raises:
        CossError: its checkpoint does not load, its data set is unknown, missing or refused, or
            its records cannot be written.
    """
    checkpoint = load()
    name = choose_dataset(checkpoint, dataset, transfer)
    source: Source = registry.load("dataset", name)
    remedy = None if download else source.missing(data_root)
    if remedy is not None:
        raise CossError(f"data set {name!r} is not in {data_root}; {remedy}")
    check_writable(record_path(results, checkpoint.name, checkpoint.sha256, name, "any").parent)
    check_writable(results / "probes")
    return checkpoint


@dataclass(frozen=True)
class Finished:
    """A condition that is measured: the suite, its cell, and where its record is kept."""

    suite: str
    cell: Cell
    record: Path


def evaluate_run(model: Path | Load, suites: Sequence[str], **options: Any) -> list[Path]:
    """Measure a model with suites and write their records; arguments as `evaluate_stream`.

    Returns:
        The paths of the records, in the order of `suites`.
    """
    paths = dict.fromkeys(suite_names(suites), Path())
    for finished in evaluate_stream(model, suites, **options):
        paths[finished.suite] = finished.record
    return list(paths.values())


def evaluate_stream(
    model: Path | Load,
    suites: Sequence[str],
    *,
    dataset: str | None = None,
    results: Path = Path("results"),
    limit: int | None = None,
    batch_size: int = 256,
    device: str = "auto",
    seed: int = 0,
    data_root: Path = Path("data"),
    download: bool = False,
    force: bool = False,
    probe: ProbeConfig | None = None,
    transfer: bool = False,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> Iterator[Finished]:
    """Measure a model with suites, giving each condition once it is in the record on disk.

    Conditions of records that are up to date come first, from the disk. Memory holds the model,
    the probe's features while it is trained, one fixed batch of training images and two batches
    of test images; beyond these only outcomes grow with the data set.

    Args:
        model: run folder or `encoder.safetensors`, or what loads a checkpoint when called.
        suites: registered names.
        dataset: measure on this data set instead of the one the encoder was pretrained on;
            refused unless `transfer`, which trains a probe there, also for a classifier.
        limit: measure so many test images: the first ones of a fixed random order, so that the
            images of a smaller limit are among those of a larger one. None measures all.
        batch_size: images measured at once; does not change outcomes beyond rounding.
        device: "auto", "cpu" or "cuda".
        seed: of the suites' draws.
        force: measure again what is up to date, with a probe trained anew. A partial record of the
            same key is continued all the same, so that an interrupted forced evaluation is not lost
            either.
        probe: how the linear classifier is trained; None takes the defaults.
        options: keyword arguments of suites, by the suite's name.
        executor: runs the units of work somewhere else, with one thread each; `model` has to be
            picklable then and all paths valid there. None measures in this process.

    Raises:
        CossError: with what is wrong and what to do. Nothing was measured then, or the conditions
            finished so far are kept and the next call continues after them. A suite that cannot
            measure the model stops no other; the error comes at the end.
    """
    for option, value in (("limit", limit), ("batch size", batch_size)):
        if value is not None and value < 1:
            raise CossError(f"the {option} must be at least 1, got {value}")
    chosen = suite_names(suites)
    progress = progress or Progress()
    load = partial(load_checkpoint, model) if isinstance(model, Path) else model
    if transfer:
        load = partial(_without_head, load)
    checkpoint = load()
    job = Job(
        load,
        choose_dataset(checkpoint, dataset, transfer),
        results,
        limit,
        batch_size,
        device,
        seed,
        data_root,
        download,
        probe or ProbeConfig(),
        options or {},
        threads=None if executor is None else 1,
    )
    # With an executor, this process only plans and writes: it needs neither the device nor speed.
    at_hand = replace(job, load=lambda: checkpoint, threads=None)
    if executor is not None:
        at_hand = replace(at_hand, device="cpu")
    with ExitStack() as stack:
        opened = Opened(at_hand, progress)
        stack.callback(opened.close)
        drafts = {s: _draft(opened, opened.suite(s)) for s in chosen}
        wanted = [s for s in chosen if force or not drafts[s].up_to_date]
        for s in chosen:
            if s not in wanted:
                path = drafts[s].path
                yield from (Finished(s, cell, path) for cell in read_record(path).cells)
        if not wanted:
            return
        for folder in {drafts[s].path.parent for s in wanted} | {results / "probes"}:
            check_writable(folder)
        for s in wanted:
            stack.enter_context(_alone(drafts[s].path))
        if force and checkpoint.head is None:
            probe_path(results, opened.classifier_key).unlink(missing_ok=True)
        if executor is not None:
            ((_, trained),) = executor(train_probe, [job])
            if isinstance(trained, CossError):
                raise trained
        for s in wanted:
            drafts[s].start(opened)
            progress.plan(drafts[s].open_images)
            yield from drafts[s].finish()
        measured = (
            _here(opened, drafts, wanted)
            if executor is None
            else _elsewhere(executor, job, drafts, wanted, progress)
        )
        failures: dict[str, CossError] = {}
        for unit, found in measured:
            if isinstance(found, CossError):
                failures.setdefault(unit.suite, found)
            else:
                cell = drafts[unit.suite].add(unit, found)
                if cell is not None:
                    yield Finished(unit.suite, cell, drafts[unit.suite].path)
                    yield from drafts[unit.suite].finish()
        if failures:
            raise _all_failures(failures, rest=[s for s in chosen if s not in failures])


def _without_head(load: Load) -> Checkpoint:
    return replace(load(), head=None, classes=None)


def _all_failures(failures: Mapping[str, CossError], rest: Sequence[str]) -> CossError:
    reasons = "; ".join(str(error) for error in failures.values())
    if not rest:
        return CossError(reasons)
    return CossError(f"{reasons}, or leave it out with --suite {','.join(rest)}")


def _here(
    opened: Opened, drafts: Mapping[str, _Draft], wanted: Sequence[str]
) -> Iterator[tuple[Unit, Measured | CossError]]:
    for s in wanted:
        for unit in drafts[s].units(len(opened.index)):
            try:
                for found in opened.measure(unit):
                    yield unit, found
            except CossError as error:
                yield unit, error
                break


def _elsewhere(
    executor: Executor,
    job: Job,
    drafts: Mapping[str, _Draft],
    wanted: Sequence[str],
    progress: Progress,
) -> Iterator[tuple[Unit, Measured | CossError]]:
    shard = -(-SHARD // job.batch_size) * job.batch_size
    todo = [unit for s in wanted for unit in drafts[s].units(shard)]
    for unit, outcome in executor(partial(measure_unit, job), todo):
        if isinstance(outcome, CossError):
            yield unit, outcome
            continue
        for found in outcome:
            progress.show(f"{unit.suite}: {found.condition.name}")
            progress.advance(unit.stop - unit.start)
            yield unit, found


class _Draft:
    """The record of one suite while it is filled."""

    def __init__(self, suite: Suite, path: Path, key: str) -> None:
        self.suite, self.path, self.key = suite, path, key
        self.record: Record
        self.conditions: list[Condition] = []
        self._parts: dict[str, dict[int, Measured]] = defaultdict(dict)

    @property
    def up_to_date(self) -> bool:
        try:
            record = read_record(self.path)
        except CossError:  # missing or damaged: either way it has to be measured
            return False
        return record.complete and record.key == self.key

    def start(self, opened: Opened) -> None:
        """Begin a record, with the cells of a partial one where they still hold.

        Raises:
            CossError: the suite lists a condition twice.
        """
        suite, test = self.suite, opened.test
        self.conditions = suite.conditions(opened.subject)
        if len({c.name for c in self.conditions}) != len(self.conditions):
            raise CossError(
                f"suite {suite.name!r} lists a condition twice; report it to its author"
            )
        self.record = Record(
            suite=suite.name,
            suite_version=suite.version,
            suite_config=suite.config(),
            model=describe_model(opened),
            dataset={
                "name": opened.job.dataset,
                "role": "test",
                "fingerprint": test.fingerprint,
                "size": test.size,
                "classes": len(test.classes),
                "n": len(opened.index),
                "limit": opened.job.limit,
            },
            seed=opened.job.seed,
            versions=versions(),
            device="",  # known once something was measured
            index=np.asarray(opened.index, dtype=np.int32),
            label=opened.labels.numpy().astype(np.int32),
            key=self.key,
            metrics=suite.metrics(self.conditions),
            axis=suite.axis,
            about=suite.about.stored(),
            options=_plain(
                f"the options of suite {suite.name!r}", opened.job.options.get(suite.name, {})
            ),
        )
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
        return len(self._todo) * len(self.record.index)

    def units(self, shard: int) -> list[Unit]:
        """What is left to measure, on up to `shard` images at a time."""
        return units(self.suite, self._todo, self.record.cells, len(self.record.index), shard)

    def add(self, unit: Unit, found: Measured) -> Cell | None:
        """Take in a condition on a shard; the cell, now on disk, if it was the last shard."""
        parts = self._parts[found.condition.name]
        parts[unit.start] = found
        if sum(len(next(iter(p.columns.values()))) for p in parts.values()) < len(
            self.record.index
        ):
            return None
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
        write_record(partial_path(self.path), self.record)
        return cell

    def finish(self) -> Iterator[Finished]:
        """Once no condition is left: derive, check and keep the record; gives derived cells."""
        if self._todo:
            return
        record = self.record
        derived = self.suite.derived(record.cells)
        record.cells = [*record.cells, *derived]
        record.checks = self.suite.checks(record.cells)
        unconverged = convergence(record.model["probe"])
        if unconverged is not None:
            record.checks = [*record.checks, unconverged]
        record.complete = True
        record.created = datetime.now(UTC).isoformat(timespec="seconds")
        write_record(self.path, record)
        partial_path(self.path).unlink(missing_ok=True)
        yield from (Finished(record.suite, cell, self.path) for cell in derived)


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


def _draft(opened: Opened, suite: Suite) -> _Draft:
    checkpoint, job = opened.checkpoint, opened.job
    key = record_key(
        checkpoint.sha256,
        opened.classifier_key,
        {"fingerprint": opened.test.fingerprint, "size": opened.test.size, "n": len(opened.index)},
        (suite.name, suite.version, suite.config()),
        job.seed,
    )
    path = record_path(job.results, checkpoint.name, checkpoint.sha256, job.dataset, suite.name)
    return _Draft(suite, path, key)


def record_key(
    checkpoint_sha256: str,
    classifier_key: str,
    dataset: Mapping[str, Any],
    suite: tuple[str, int, Mapping[str, Any]],
    seed: int,
    schema: int = SCHEMA,
) -> str:
    """Digest of everything that determines the outcomes in a record.

    Args:
        classifier_key: as `Opened.classifier_key`.
        dataset: with fingerprint, size and n.
        suite: name, version and settings.
        schema: of the record. Keys of 3 are those of 2: what it added determines no outcome.
    """
    name, version, config = suite
    return sha256_of(
        {
            "schema": min(schema, 2),
            "checkpoint": checkpoint_sha256,
            "probe": classifier_key,
            "dataset": dataset["fingerprint"],
            "size": dataset["size"],
            "n": dataset["n"],
            "suite": name,
            "version": version,
            "config": dict(config),
            "seed": seed,
        }
    )


def partial_path(path: Path) -> Path:
    """Where the conditions measured so far lie while a record is unfinished."""
    return path.with_name(f"{path.stem}.partial.json")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes off a record while it is measured.

    Raises:
        CossError: one is at it.
    """
    file = path.with_name(f".{path.stem}.lock")
    lock = FileLock(file, blocking=False)
    with explain_os_errors("write", path):
        try:
            lock.acquire()
        except Timeout as error:
            raise CossError(
                f"another process is measuring {path}; wait for it, or stop it"
            ) from error
    try:
        yield
    finally:
        # Removed while it is held: who waits for a file that is gone starts over with a new one.
        with suppress(OSError):
            file.unlink()
        lock.release()


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
        "probe": opened.probe_summary,
    }
    if "control" in metadata:
        described["control"] = metadata["control"]
    if "recipe" not in training and metadata.get("mlp") is not None:  # a recipe says it itself
        described["mlp"] = metadata["mlp"]
    return with_recipe(described, int(metadata["size"]))
