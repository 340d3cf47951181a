"""Runs suites on a model and leaves records; the only part that knows files, devices and resuming.

A suite is measured condition by condition, batch by batch. After each condition the partial
record is written, so an interrupted evaluation continues where it stopped, and a finished record
is measured again only if something that determines its outcomes has changed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluations.features import batches, labelled, read_batch, to_device
from evaluations.probe import Probe, ProbeConfig, get_probe, probe_key
from evaluations.progress import Progress
from evaluations.protocol import Batch, Condition, Subject, Suite
from robustbench_coss import registry
from robustbench_coss.checkpoints import Checkpoint, load_checkpoint
from robustbench_coss.datasets.base import ImageSet, Source, open_dataset
from robustbench_coss.encoders.base import parameters
from robustbench_coss.environment import check_writable, device_name, resolve_device, versions
from robustbench_coss.errors import CossError
from robustbench_coss.files import sha256_of
from robustbench_coss.records import (
    SCHEMA,
    Cell,
    Column,
    Record,
    read_record,
    record_path,
    write_record,
)
from robustbench_coss.seeds import permutation

ORDER = ("clean", "corruption", "occlusion", "adversarial", "crop", "redundancy")


def suite_names(asked: Sequence[str]) -> list[str]:
    """Registered suites for what a user asked for, each once, in the order asked.

    Args:
        asked: names, several in one string separated by commas; "all" stands for every
            registered suite, the project's own first.

    Raises:
        CossError: nothing was asked for, or a name is unknown (the nearest ones are given).
    """
    every = registry.names("suite")
    known_first = [n for n in ORDER if n in every] + [n for n in every if n not in ORDER]
    chosen: list[str] = []
    for name in (part.strip() for text in asked for part in text.split(",")):
        if name == "all":
            chosen += known_first
        elif name:
            if name not in every:
                registry.load("suite", name)  # raises, naming the nearest
            chosen.append(name)
    if not chosen:
        raise CossError(f"no suite was named; known: all, {', '.join(known_first)}")
    return list(dict.fromkeys(chosen))


def choose_dataset(checkpoint: Checkpoint, dataset: str | None, transfer: bool) -> str:
    """The data set to measure on: the one the encoder was pretrained on, or another on purpose.

    Raises:
        CossError: another one is asked for without `transfer`, it is not registered, or none is
            known.
    """
    pretrained = checkpoint.metadata.get("dataset")
    if dataset is None:
        if pretrained is None:
            raise CossError(
                f"{checkpoint.path} does not say what it was pretrained on; "
                "name a data set with --dataset NAME --transfer"
            )
        return str(pretrained)
    registry.load("dataset", dataset)  # a misspelt name is not a wish to transfer
    if dataset != pretrained and not transfer:
        raise CossError(
            f"{checkpoint.name} was pretrained on {pretrained!r}, not {dataset!r}; add --transfer "
            f"to train a probe on {dataset!r} and measure there"
        )
    return dataset


def check_run(
    where: Path,
    *,
    dataset: str | None,
    transfer: bool,
    results: Path,
    data_root: Path,
    download: bool,
) -> None:
    """Find out before any measurement whether a run can be evaluated.

    Raises:
        CossError: its checkpoint does not load, its data set is unknown, missing or refused, or
            its records cannot be written.
    """
    checkpoint = load_checkpoint(where)
    name = choose_dataset(checkpoint, dataset, transfer)
    source: Source = registry.load("dataset", name)
    remedy = None if download else source.missing(data_root)
    if remedy is not None:
        raise CossError(f"data set {name!r} is not in {data_root}; {remedy}")
    check_writable(record_path(results, checkpoint.name, checkpoint.sha256, name, "any").parent)
    check_writable(results / "probes")


def evaluate_run(
    where: Path,
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
) -> list[Path]:
    """Measure a model with suites and write their records.

    Memory holds the model, the probe's features while it is trained, one fixed batch of training
    images and two batches of test images; beyond these only outcomes grow with the data set.

    Args:
        where: run folder or `encoder.safetensors`.
        suites: registered names.
        dataset: measure on this data set instead of the one the encoder was pretrained on;
            refused unless `transfer`, which trains the probe there too.
        limit: measure so many test images: the first ones of a fixed random order, so that the
            images of a smaller limit are among those of a larger one. None measures all.
        batch_size: images measured at once; does not change outcomes beyond rounding.
        device: "auto", "cpu" or "cuda".
        seed: of the suites' draws.
        force: measure again what is up to date. A partial record of the same key is continued
            all the same, so that an interrupted forced evaluation is not lost either.
        probe: how the linear classifier is trained; None takes the defaults.
        options: keyword arguments of suites, by the suite's name.

    Returns:
        The paths of the records, in the order of `suites`.

    Raises:
        CossError: with what is wrong and what to do; nothing was measured then, or the conditions
            finished so far are kept and the next call continues after them.
    """
    for name, value in (("limit", limit), ("batch size", batch_size)):
        if value is not None and value < 1:
            raise CossError(f"the {name} must be at least 1, got {value}")
    chosen = suite_names(suites)
    progress = progress or Progress()
    where_to = resolve_device(device)
    checkpoint = load_checkpoint(where)
    name = choose_dataset(checkpoint, dataset, transfer)
    train, validation, test = (
        open_dataset(
            name, role, size=int(checkpoint.metadata["size"]), root=data_root, download=download
        )
        for role in ("train", "validation", "test")
    )
    order = labelled(test, permutation(len(test), "test order", len(test)))
    index: list[int] = order[:limit].tolist()
    config = probe or ProbeConfig()

    paths = {s: record_path(results, checkpoint.name, checkpoint.sha256, name, s) for s in chosen}
    given = options or {}
    loaded: dict[str, Suite] = {s: registry.load("suite", s)(**given.get(s, {})) for s in chosen}
    for suite in loaded.values():
        suite.configure(test)
    classifier_key = probe_key(checkpoint.sha256, train, validation, config)
    keys = {
        s: sha256_of(
            {
                "schema": SCHEMA,
                "checkpoint": checkpoint.sha256,
                "probe": classifier_key,
                "dataset": test.fingerprint,
                "size": test.size,
                "n": len(index),
                "suite": s,
                "version": suite.version,
                "config": suite.config(),
                "seed": seed,
            }
        )
        for s, suite in loaded.items()
    }
    wanted = [s for s in chosen if force or not _up_to_date(paths[s], keys[s])]
    if not wanted:
        return list(paths.values())
    for folder in {paths[s].parent for s in wanted} | {results / "probes"}:
        check_writable(folder)

    trained = get_probe(
        checkpoint,
        train,
        validation,
        config,
        results=results,
        device=where_to,
        batch_size=batch_size,
        progress=progress,
    )
    subject = Subject(checkpoint.encoder, trained.classifier)
    to_device(subject, where_to)
    _check_finite(subject, checkpoint, read_batch(test, index[:batch_size], where_to))
    planned = {s: loaded[s].conditions(subject) for s in wanted}
    started: dict[str, Record] = {}
    for s in wanted:
        started[s] = _start(
            loaded[s],
            paths[s],
            planned[s],
            fresh=Record(
                suite=s,
                suite_version=loaded[s].version,
                suite_config=loaded[s].config(),
                model=_describe_model(checkpoint, trained),
                dataset={
                    "name": name,
                    "role": "test",
                    "fingerprint": test.fingerprint,
                    "size": test.size,
                    "classes": len(test.classes),
                    "n": len(index),
                    "limit": limit,
                },
                seed=seed,
                versions=versions(),
                device=device_name(where_to),
                index=np.asarray(index, dtype=np.int32),
                label=test.labels[order[: len(index)]].numpy().astype(np.int32),
                key=keys[s],
                metrics=loaded[s].metrics(planned[s]),
                axis=loaded[s].axis,
            ),
        )
        progress.plan((len(planned[s]) - len(started[s].cells)) * len(index))
    reference = _reference_batch(train, where_to)
    for s in wanted:
        try:
            _prepare(loaded[s], subject, reference, test.size, others=[o for o in chosen if o != s])
            _measure_suite(
                loaded[s], subject, test, planned[s], started[s], paths[s], batch_size, progress
            )
        except torch.OutOfMemoryError as error:
            raise CossError(
                f"the GPU ran out of memory in suite {s!r} at batch size {batch_size}; "
                "run again with a smaller --batch-size, finished conditions are kept"
            ) from error
        finally:
            loaded[s].close()
    return list(paths.values())


def partial_path(path: Path) -> Path:
    """Where the conditions measured so far lie while a record is unfinished."""
    return path.with_name(f"{path.stem}.partial.json")


def _up_to_date(path: Path, key: str) -> bool:
    try:
        record = read_record(path)
    except CossError:  # missing or damaged: either way it has to be measured
        return False
    return record.complete and record.key == key


def _start(suite: Suite, path: Path, conditions: Sequence[Condition], *, fresh: Record) -> Record:
    """The record to fill: `fresh`, with the cells of a partial record where they still hold."""
    known = {c.name for c in conditions}
    if len(known) != len(conditions):
        raise CossError(f"suite {suite.name!r} lists a condition twice; report it to its author")
    try:
        partial = read_record(partial_path(path))
    except CossError:  # none, or damaged: start from the first condition
        return fresh
    # One record states one set of versions, so cells made with others are measured again.
    if partial.key == fresh.key and partial.versions == fresh.versions:
        fresh.cells = [cell for cell in partial.cells if cell.condition in known]
        if fresh.device not in partial.device.split("; "):
            fresh.device = f"{partial.device}; {fresh.device}"
        else:
            fresh.device = partial.device
    return fresh


def _prepare(
    suite: Suite, subject: Subject, reference: Batch, size: int, others: Sequence[str]
) -> None:
    try:
        suite.prepare(subject, reference, size)
    except CossError as error:
        if not others:
            raise
        raise CossError(f"{error}, or leave it out with --suite {','.join(others)}") from error


def _measure_suite(
    suite: Suite,
    subject: Subject,
    images: ImageSet,
    conditions: Sequence[Condition],
    record: Record,
    path: Path,
    batch_size: int,
    progress: Progress,
) -> None:
    """Fill a record's missing cells, writing the partial record after each, then finish it."""
    done = {cell.condition for cell in record.cells}
    index: list[int] = record.index.tolist()
    device = next(subject.parameters()).device
    for number, condition in enumerate(conditions, start=1):
        if condition.name in done:
            continue
        progress.show(
            f"{record.model['name']} {suite.name}: {condition.name} ({number}/{len(conditions)})"
        )
        began = time.perf_counter()
        columns: dict[str, list[Column]] = {}
        for batch in batches(images, index, batch_size, device):
            outcomes = suite.measure(subject, batch, condition, record.seed)
            _collect(columns, outcomes, batch, suite, condition)
            progress.advance(len(batch.index))
        record.cells.append(
            Cell(
                condition.name,
                condition.group,
                condition.level,
                {name: np.concatenate(parts) for name, parts in columns.items()},
                time.perf_counter() - began,
            )
        )
        write_record(partial_path(path), record)
    record.checks = suite.checks(record.cells)
    record.complete = True
    record.created = datetime.now(UTC).isoformat(timespec="seconds")
    write_record(path, record)
    partial_path(path).unlink(missing_ok=True)


def _collect(
    columns: dict[str, list[Column]],
    outcomes: dict[str, Tensor],
    batch: Batch,
    suite: Suite,
    condition: Condition,
) -> None:
    size = len(batch.index)
    first = not columns
    shapes = {name: tuple(column.shape) for name, column in outcomes.items()}
    if any(shape != (size,) for shape in shapes.values()) or not (
        outcomes and (first or shapes.keys() == columns.keys())
    ):
        raise CossError(
            f"suite {suite.name!r} gave columns {shapes} for {size} images under "
            f"{condition.name!r}; each must be [{size}] and all batches must give the same ones"
        )
    for name, column in outcomes.items():
        values = column.detach().cpu()
        kept = values if values.dtype == torch.bool else values.float()
        columns.setdefault(name, []).append(kept.numpy())


def _check_finite(subject: Subject, checkpoint: Checkpoint, batch: Batch) -> None:
    """A cached probe skips the check that feature extraction makes."""
    with torch.inference_mode():
        finite = bool(torch.isfinite(subject(batch.images)).all())
    if not finite:
        raise CossError(
            f"{checkpoint.name} gives NaN or infinite outputs for test images; its training "
            "diverged, so pretrain it again with a lower learning rate"
        )


def _reference_batch(train: ImageSet, device: torch.device) -> Batch:
    """The fixed training images that suites may prepare with.

    5,000 of them up to 64 px (246 MB of floats), 512 above (308 MB at 224 px), or all there are:
    enough for a kNN bank, and bounded.
    """
    count = 5_000 if train.size <= 64 else 512
    order = labelled(train, permutation(len(train), "reference batch", len(train)))
    indices: list[int] = order[:count].tolist()
    return read_batch(train, indices, device)


def _describe_model(checkpoint: Checkpoint, probe: Probe) -> dict[str, Any]:
    metadata = checkpoint.metadata
    return {
        "name": checkpoint.name,
        "checkpoint_sha256": checkpoint.sha256,
        "method": metadata.get("method"),
        "arch": metadata["arch"],
        "width": metadata["width"],
        "parameters": parameters(checkpoint.encoder),
        "encoder": metadata.get("encoder"),
        "dataset": metadata.get("dataset"),
        "training": metadata.get("training", {}),
        "probe": probe.summary,
    }
