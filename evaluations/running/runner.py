"""Runs suites on a model and leaves records, continuing what was interrupted.

A suite is measured condition by condition, batch by batch. After each condition the partial
record is written, so an interrupted evaluation continues where it stopped, and a finished record
is measured again only if something that determines its outcomes has changed.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from robustbench_coss import registry
from robustbench_coss.datasets.base import missing_data, open_dataset
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.progress import Progress
from robustbench_coss.evaluations.running.draft import Draft, Finished, draft
from robustbench_coss.evaluations.running.job import (
    Opened,
    measure_unit,
    settle,
    train_probe,
)
from robustbench_coss.evaluations.running.places import lock_path
from robustbench_coss.evaluations.running.precision import AUTO
from robustbench_coss.evaluations.running.request import Evaluation, Load, choose_dataset
from robustbench_coss.evaluations.running.units import Measured, Unit
from robustbench_coss.files import alone
from robustbench_coss.machine.environment import check_writable
from robustbench_coss.machine.executors import Executor
from robustbench_coss.models.checkpoint import Checkpoint, load_checkpoint
from robustbench_coss.models.loan import Loan, ordinary_mode
from robustbench_coss.records.about import about_suite, asked_only, in_order
from robustbench_coss.records.record import Record, record_path

SHARD = 2_000
"""Images of a unit that is handed to another process, about: rounded up to whole batches."""


def suite_names(asked: Sequence[str]) -> list[str]:
    """Registered suites for what a user asked for, each once, in the order asked.

    Args:
        asked: names, several in one string separated by commas; "all" stands for every
            registered suite but those that are `asked_only`, in reading order.

    Raises:
        CossError: nothing was asked for, or a name is unknown (the nearest ones are given).
    """
    every = registry.names("suite")
    chosen: list[str] = []
    for name in (part.strip() for text in asked for part in text.split(",")):
        if name == "all":
            working = [suite for suite in every if _works(suite) and not asked_only(suite)]
            chosen += in_order({suite: about_suite(suite) for suite in working})
        elif name:
            if name not in every:
                registry.load("suite", name)  # raises, naming the nearest
            chosen.append(name)
    if not chosen:
        known = in_order({suite: about_suite(suite) for suite in every})
        raise CossError(f"no suite was named; known: all, {', '.join(known)}")
    return list(dict.fromkeys(chosen))


def _works(suite: str) -> bool:
    """Whether a suite can be imported; a warning names one that cannot."""
    try:
        registry.load("suite", suite)
    except CossError as error:
        warnings.warn(f"{error}; it is left out", stacklevel=1)
        return False
    return True


def suites_for(checkpoint: Checkpoint, asked: Sequence[str]) -> list[str]:
    """As `suite_names`, without what "all" brings that says nothing of this model: pixels have no
    local representations.
    """
    names = suite_names(asked)
    everything = any("all" in text.split(",") for text in asked)
    if everything and checkpoint.metadata.get("control") == "pixels":
        return [name for name in names if not getattr(registry.load("suite", name), "local", False)]
    return names


def check_run(load: Load, request: Evaluation) -> Checkpoint:
    """Find out before any measurement whether a model can be evaluated, and return it.

    Raises:
        CossError: its checkpoint does not load, its data set is unknown, missing or refused, or
            its records cannot be written.
    """
    checkpoint = load()
    name = choose_dataset(checkpoint, request.dataset, request.transfer)
    results, data_root = Path(request.results), Path(request.data_root)
    remedy = None if request.download else missing_data(name, data_root)
    if remedy is not None and not (checkpoint.head is not None and _has_test(name, request)):
        raise CossError(f"data set {name!r} is not in {data_root}; {remedy}")
    check_writable(record_path(results, checkpoint.name, checkpoint.sha256, name, "any").parent)
    check_writable(results / "probes")
    return checkpoint


def _has_test(dataset: str, request: Evaluation) -> bool:
    """Whether there are test images, at least: enough for some suites and a model's own head."""
    try:
        return not request.transfer and bool(
            len(open_dataset(dataset, "test", root=Path(request.data_root)))
        )
    except CossError:
        return False


def evaluate_run(
    model: Path | Load,
    request: Evaluation,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> dict[Path, Record]:
    """Measure a model with suites and write their records; as `evaluate_stream`.

    Returns:
        The records by path, in the order of the suites asked for.
    """
    last = {}
    for finished in evaluate_stream(model, request, progress, executor):
        last[finished.suite] = finished
    return {last[s].record: last[s].so_far for s in suite_names(request.suites) if s in last}


def evaluate_stream(
    model: Path | Load,
    request: Evaluation,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> Iterator[Finished]:
    """Measure a model with suites, giving each condition once it is in the record on disk.

    Conditions of records that are up to date come first, from the disk. Memory holds the model,
    the probe's features while it is trained, one fixed batch of training images and two batches
    of test images; beyond these only outcomes grow with the data set.

    Args:
        model: run folder or `encoder.safetensors`, or what loads a model when called.
        executor: runs the units of work somewhere else, with one thread each; `model` has to be
            picklable then and all paths valid there. None measures in this process.

    Raises:
        CossError: with what is wrong and what to do. Nothing was measured then, or the conditions
            finished so far are kept and the next call continues after them. A suite that cannot
            measure the model stops no other; the error comes at the end.
    """
    load = partial(load_checkpoint, model) if isinstance(model, Path) else model
    with ordinary_mode():
        checkpoint = load()
    head = [] if checkpoint.head is None else [checkpoint.head]
    steps = _steps(checkpoint, load, request, progress or Progress(), executor)
    loan = Loan(checkpoint.encoder, *head)
    try:
        while True:  # what the caller does between two steps, it does with its own model and modes
            with loan, ordinary_mode():
                finished = next(steps, None)
            if finished is None:
                return
            yield finished
    finally:
        with loan, ordinary_mode():
            steps.close()


def _steps(
    checkpoint: Checkpoint,
    load: Load,
    request: Evaluation,
    progress: Progress,
    executor: Executor | None,
) -> Generator[Finished]:
    # With an executor, this process only plans and writes: it needs neither the device nor speed.
    here = request if executor is None else replace(request, device="cpu")
    with ExitStack() as stack:
        opened = Opened(lambda: checkpoint, here, progress)
        stack.callback(opened.close)
        chosen = suites_for(opened.checkpoint, request.suites)
        anew = request.force or not opened.checkpoint.recognised
        request = _settled(opened, chosen, anew, load, request, executor)
        opened.request = replace(here, precision=request.precision, compile=request.compile)
        drafts = {s: draft(opened, opened.suite(s)) for s in chosen}
        wanted = [s for s in chosen if anew or not drafts[s].up_to_date]
        for s in chosen:
            if s not in wanted:
                drafts[s].tidy()
                yield from drafts[s].on_disk()
        if not wanted:
            return
        for folder in {drafts[s].path.parent for s in wanted} | {Path(request.results) / "probes"}:
            check_writable(folder)
        for s in wanted:
            path = drafts[s].path
            stack.enter_context(alone(lock_path(path), f"measuring {path}"))
        opened.anew = anew and executor is None
        if executor is not None:
            ((_, trained),) = executor(partial(train_probe, load), [request])
            if isinstance(trained, CossError):
                raise trained
        for s in wanted:
            drafts[s].start(opened)
            progress.plan(drafts[s].open_images)
            yield from drafts[s].on_disk()
            yield from drafts[s].finish()
        todo = {s: drafts[s] for s in wanted}
        if executor is None:
            measured = _here(opened, todo)
        else:
            measured = _elsewhere(executor, load, request, todo, progress)
        failures: dict[str, CossError] = {}
        for unit, found in measured:
            if isinstance(found, CossError):
                failures.setdefault(unit.suite, found)
            else:
                yield from drafts[unit.suite].add(unit, found)
        if failures:
            raise _all_failures(failures, rest=[s for s in chosen if s not in failures])


def _settled(
    opened: Opened,
    chosen: Sequence[str],
    anew: bool,
    load: Load,
    request: Evaluation,
    executor: Executor | None,
) -> Evaluation:
    """A request with a precision that is known, asking to compile only what can be.

    "auto" is what it was before, where any of these suites was measured already: a device that is
    about as fast in both must not measure everything again.
    """
    auto = request.precision == "auto"
    if not (auto or request.compile):
        return request
    suites = [opened.suite(s) for s in chosen]
    for precision in () if anew else AUTO if auto else (request.precision,):
        opened.request = replace(opened.request, precision=precision)
        drafts = [draft(opened, s) for s in suites if not (auto and s.full_precision)]
        if drafts and all(d.up_to_date for d in drafts):
            return replace(request, precision=precision)
        if any(d.begun for d in drafts) and auto:
            request = replace(request, precision=precision)
            break
    opened.request = replace(opened.request, precision=request.precision)
    if executor is None:
        found = opened.settle()
    else:
        ((_, outcome),) = executor(partial(settle, load), [request])
        if isinstance(outcome, CossError):
            raise outcome
        found = outcome
    return replace(request, precision=found.precision, compile=found.compile)


def _all_failures(failures: Mapping[str, CossError], rest: Sequence[str]) -> CossError:
    reasons = "; ".join(str(error) for error in failures.values())
    if not rest:
        return CossError(reasons)
    return CossError(f"{reasons}, or leave it out with --suite {','.join(rest)}")


def _here(
    opened: Opened, drafts: Mapping[str, Draft]
) -> Iterator[tuple[Unit, Measured | CossError]]:
    for one in drafts.values():
        for unit in one.units():
            try:
                for found in opened.measure(unit):
                    yield unit, found
            except CossError as error:
                yield unit, error
                break


def _elsewhere(
    executor: Executor,
    load: Load,
    request: Evaluation,
    drafts: Mapping[str, Draft],
    progress: Progress,
) -> Iterator[tuple[Unit, Measured | CossError]]:
    shard = -(-SHARD // request.batch_size) * request.batch_size
    todo = [unit for one in drafts.values() for unit in one.units(shard)]
    for unit, outcome in executor(partial(measure_unit, load, request), todo):
        if isinstance(outcome, CossError):
            yield unit, outcome
            continue
        for found in outcome:
            progress.show(f"{unit.suite}: {found.condition.name}")
            progress.advance(unit.stop - unit.start)
            yield unit, found
