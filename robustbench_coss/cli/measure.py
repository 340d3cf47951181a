"""Measuring models one after the other for `coss-bench eval`, and saying what was found."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from shlex import quote

import typer
from rich.text import Text

from robustbench_coss.analysis.numbers import number
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.progress import ConsoleProgress
from robustbench_coss.evaluations.protocol import make_suite
from robustbench_coss.evaluations.running.request import Evaluation, Once
from robustbench_coss.evaluations.running.runner import (
    check_run,
    evaluate_run,
    suite_names,
    suites_for,
)
from robustbench_coss.machine.environment import resolve_device
from robustbench_coss.machine.executors import on_ray
from robustbench_coss.machine.side_by_side import on_sigterm
from robustbench_coss.machine.terminal import Screen, say
from robustbench_coss.models.checkpoint import Checkpoint
from robustbench_coss.records.record import Record
from robustbench_coss.tables.cells import in_text


def measure_all(
    models: Sequence[str],
    read: Callable[[str], Checkpoint],
    request: Evaluation,
    cluster: str | None,
    gpus_per_task: float | None,
) -> None:
    """Measure models, print their headline numbers and the next command.

    Every model is looked at before the first is measured: a typo in the last one should not cost
    the hours spent on those before it.

    Args:
        read: loads a model; picklable where there is a cluster.
        cluster: address of a Ray cluster, or "auto"; None measures in this process.
        gpus_per_task: share of a GPU that a task takes there.

    Raises:
        CossError: what is asked for cannot be done, a model could not be measured, or outcomes are
            doubtful. The other models are measured all the same.
    """
    if gpus_per_task is not None and cluster is None:
        raise CossError("--gpus-per-task is for --cluster; here, the device is the model's alone")
    suites = suite_names(request.suites)
    for name in suites:
        make_suite(name, request.options.get(name, {})).close()
    resolve_device(request.device)
    shown = request.results
    if cluster is not None:  # workers have a working folder of their own
        results, data_root = (Path(p).resolve() for p in (request.results, request.data_root))
        listed = request.image_list and Path(request.image_list).resolve()
        request = replace(request, results=results, data_root=data_root, image_list=listed)
        models = [str(Path(m).resolve()) if Path(m).exists() else m for m in models]
    console = Screen()
    todo = deque((model, Once(partial(read, model))) for model in models)
    for _, load in todo:
        checkpoint = check_run(load, request)
        wanted = suites_for(checkpoint, request.suites)
        if left := [name for name in suites if name not in wanted]:
            line = (
                f"{checkpoint.name}: left out {', '.join(left)}, which look at local "
                "representations; it has none"
            )
            say(line)
        if checkpoint.preprocessing:
            line = f"{checkpoint.name}: {checkpoint.preprocessing}"
            say(line)
    records, failures = _measure(todo, request, cluster, gpus_per_task)
    if records:
        _print_headlines(records, console)
        elsewhere = f" --results {quote(str(request.results))}"
        say(f"next: coss-bench leaderboard{'' if shown == Path('results') else elsewhere}")
    if failures:
        named = len(models) > 1
        raise CossError("; ".join(f"{m}: {e}" if named else str(e) for m, e in failures.items()))
    _refuse_problems(records.values())


def _measure(
    todo: deque[tuple[str, Once]],
    request: Evaluation,
    cluster: str | None,
    gpus_per_task: float | None,
) -> tuple[dict[Path, Record], dict[str, CossError]]:
    """Records by path, and what was wrong with models that could not be measured."""
    records: dict[Path, Record] = {}
    failures: dict[str, CossError] = {}
    with ExitStack() as stack:
        stack.enter_context(on_sigterm(_end))
        executor = None
        if cluster is not None:
            share = {"cpu": 0.0, "cuda": 1.0}.get(request.device)
            share = share if gpus_per_task is None else gpus_per_task
            executor = stack.enter_context(on_ray(cluster, share))
        progress = stack.enter_context(ConsoleProgress(Screen(stderr=True)))
        try:
            while todo:  # each is let go of when it is done
                model, load = todo.popleft()
                try:
                    records |= evaluate_run(load, request, progress, executor)
                except CossError as error:  # of this model; the others are measured all the same
                    failures[model] = error
        except KeyboardInterrupt:
            say("interrupted; run the same command again to continue", err=True)
            raise typer.Exit(130) from None
    return records, failures


def _end(*_: object) -> None:
    """End this process as an error does: worker processes end with it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not disturb the end
    say("stopped; run the same command again to continue", err=True)
    raise SystemExit(128 + signal.SIGTERM)


def _refuse_problems(records: Iterable[Record]) -> None:
    """Name the cells whose outcomes are doubtful.

    Raises:
        CossError: there are any.
    """
    found = []
    for record in records:
        found += [
            f"{record.model['name']} {record.suite} {cell.condition}: {cell.problem}"
            for cell in record.cells
            if cell.problem
        ]
    if found:
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        raise CossError(
            f"{len(found)} conditions are marked in their records: {'; '.join(found[:3])}{more}; "
            "images without a finite answer count as wrong"
        )


def _print_headlines(records: Mapping[Path, Record], console: Screen) -> None:
    """Print the headline numbers of records, model by model."""
    previous = None
    for path, record in records.items():
        data = record.dataset
        model = (record.model["name"], record.model["checkpoint_sha256"], data["name"])
        if model != previous:
            previous = model
            chance = 100 / data["classes"]
            about = (
                f" on {data['name']}: {data['n']:,} test images, {data['classes']} classes, "
                f"chance {chance:.1f} %"
            )
            console.print(Text.assemble((str(model[0]), "bold"), about), soft_wrap=True)
            say(f"  records: {path.parent}")
        numbers = []
        for metric in record.metrics:
            if metric.headline:
                found = number([record], metric.conditions, metric.column)
                said = in_text(found.value, found.low, found.high, metric.percent)
                numbers.append(f"{metric.label} {said}")
        line = f"  {record.suite}: {', '.join(numbers) or 'no headline numbers'}"
        console.print(line, soft_wrap=True)
        for check in record.checks:
            if not check.passed:
                failed = ("  check failed:", "bold yellow")
                line = f" {check.name}: {check.detail}"
                console.print(Text.assemble(failed, line), soft_wrap=True)
