"""`coss-bench sweep`: pretrain every combination of a grid, on this machine or a Ray cluster."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from robustbench_coss.cli import sweep_options as options
from robustbench_coss.cli.eval_options import DataRoot, Download
from robustbench_coss.cli.pretrain_options import Device
from robustbench_coss.cli.settings import not_the_root
from robustbench_coss.errors import CossError
from robustbench_coss.files import LOCK, alone, remove_leftovers
from robustbench_coss.machine.terminal import Screen, say, show

if TYPE_CHECKING:
    from rich.table import Table

    from robustbench_coss.pretrain.sweep import Run

    Train = Callable[[Run], None]

LABELS = {"new": "to start", "interrupted": "to resume", "finished": "finished"}
RUNNING = "running"


def sweep(
    sweep: options.SweepName,
    recipe: options.Recipe = None,
    out: options.Runs = None,
    dry_run: options.DryRun = False,
    device: Device = "auto",
    jobs: options.Jobs = None,
    cluster: options.Cluster = None,
    gpus_per_run: options.GpusPerRun = None,
    data_root: DataRoot = Path("data"),
    download: Download = False,
) -> None:
    """Pretrain every combination of a grid over a recipe.

    Every run is what `coss-bench pretrain` would write, in a folder named by what varies. Finished
    runs are skipped and interrupted ones go on from their last checkpoint, so after a stop for
    whatever reason, run the same command again. A run that fails does not stop the others.

    Examples:

      coss-bench sweep crop --dry-run

      coss-bench sweep crop

      coss-bench sweep crop --jobs 4

      coss-bench sweep my-sweep.yaml --cluster auto --gpus-per-run 0.5
    """
    from robustbench_coss.pretrain.sweep import plan, read_sweep, state

    if gpus_per_run is not None and cluster is None:
        raise CossError("--gpus-per-run is for --cluster; runs of --jobs share the device")
    if jobs is not None and jobs < 1:
        raise CossError(f"--jobs must be at least 1, got {jobs}; leave it out for one at a time")
    if jobs is not None and cluster is not None:
        raise CossError("--jobs is for this machine; on a --cluster, Ray decides; drop one of them")
    wanted = read_sweep(sweep)
    if recipe is not None:
        wanted = wanted.model_copy(update={"recipe": recipe})
    folder = out or Path(wanted.out or Path("runs") / Path(sweep).stem)
    if cluster is not None:  # workers have a working folder of their own
        folder, data_root = folder.resolve(), data_root.resolve()
    not_the_root("--out", folder)
    runs = plan(wanted, folder)
    if dry_run:
        states = {run: LABELS[state(run)] for run in runs}
        show(_table(states))
        say(f"{len(runs)} runs in {folder}: {_to_go(states)}")
        return
    try:
        with alone(folder / LOCK, f"running a sweep in {folder}"):
            failures = _train(runs, device, jobs, cluster, gpus_per_run, data_root, download)
    except KeyboardInterrupt:
        say("interrupted; run the same command again to go on", err=True)
        raise typer.Exit(130) from None
    show(_table(dict.fromkeys(runs, "finished") | failures))
    _refuse_failures(failures, len(runs))
    say(f"next: coss-bench eval {shlex.quote(str(folder))}/*")


def _to_go(states: dict[Run, str]) -> str:
    finished = sum(found == LABELS["finished"] for found in states.values())
    return f"{finished} finished, {len(states) - finished} to go"


def _refuse_failures(failures: dict[Run, str], count: int) -> None:
    """Raise CossError if some of `count` runs failed."""
    if failures:
        named = ", ".join(run.name for run in failures)
        raise CossError(
            f"{len(failures)} of {count} runs did not finish: {named}; put right what is named "
            "above and run the same command again"
        )


def _train(
    runs: list[Run],
    device: str,
    jobs: int | None,
    cluster: str | None,
    gpus: float | None,
    data_root: Path,
    download: bool,
) -> dict[Run, str]:
    """Train what is not finished and tell of each run; those that "failed" or "diverged"."""
    from robustbench_coss.pretrain.sweep import prepare_data, state, train

    for run in runs:
        remove_leftovers(run.folder)
    states = {run: LABELS[state(run)] for run in runs}
    runs = _open(states)
    if not runs:
        return {}
    prepare_data(runs, data_root, download)
    one = partial(train, device=device, data_root=data_root)
    if cluster is not None:
        return _on_cluster(one, runs, cluster, device, gpus)
    if jobs is not None:
        return _side_by_side(one, states, min(jobs, len(runs)), device, data_root)
    return _one_by_one(one, runs)


def _open(states: dict[Run, str]) -> list[Run]:
    return [run for run, state in states.items() if state != LABELS["finished"]]


def _one_by_one(train: Train, runs: list[Run]) -> dict[Run, str]:
    from robustbench_coss.machine.executors import in_process

    console = Screen(stderr=True)
    return _told(console, in_process(train, _announced(runs, console)))


def _on_cluster(
    train: Train, runs: list[Run], cluster: str, device: str, gpus: float | None
) -> dict[Run, str]:
    from rich.progress import MofNCompleteColumn

    from robustbench_coss.machine.executors import on_ray
    from robustbench_coss.machine.terminal import Times, progress_bar

    console = Screen(stderr=True)
    bar = progress_bar(console, MofNCompleteColumn(), Times(), width=20)
    share = {"cpu": 0.0, "cuda": 1.0}.get(device) if gpus is None else gpus
    with on_ray(cluster, share) as execute, bar:
        outcomes = bar.track(execute(train, runs), total=len(runs), description="runs")
        return _told(console, iter(outcomes))


def _side_by_side(
    train: Train, states: dict[Run, str], jobs: int, device: str, data_root: Path
) -> dict[Run, str]:
    """Train in processes beside each other, under a table of all runs if there is a terminal."""
    import torch
    from rich.live import Live

    from robustbench_coss.machine.environment import cores
    from robustbench_coss.machine.side_by_side import side_by_side
    from robustbench_coss.pretrain.sweep_memory import check_memory

    console, states, runs = Screen(stderr=True), dict(states), _open(states)

    def tell(run: Run, line: str) -> None:
        # The table shows how runs get on; what it cannot show is a warning or worse.
        if not (console.is_terminal and line.startswith(f"{run.recipe.method} seed ")):
            console.print(f"{run.name}: {line}", soft_wrap=True)

    threads = min(max(1, cores() // jobs), torch.get_num_threads())  # never more than asked for
    if jobs > 1:
        check_memory(runs, jobs, threads, tell, device=device, data_root=data_root)
    items = _announced(runs, console, states)
    table = Live(
        get_renderable=lambda: _table(states), console=console, refresh_per_second=1, transient=True
    )
    with ExitStack() as stack:
        if console.is_terminal:
            stack.enter_context(table)
        outcomes = stack.enter_context(closing(side_by_side(jobs, threads, tell, train, items)))
        return _told(console, outcomes, states)


def _announced(
    runs: list[Run], console: Screen, states: dict[Run, str] | None = None
) -> Iterator[Run]:
    """The runs, each named when its turn comes, and noted in `states` as running."""
    for number, run in enumerate(runs, 1):
        console.print(f"[{number}/{len(runs)}] {run.name}", soft_wrap=True)
        if states is not None:
            states[run] = RUNNING
        yield run


def _told(
    console: Screen,
    outcomes: Iterator[tuple[Run, CossError | None]],
    states: dict[Run, str] | None = None,
) -> dict[Run, str]:
    """Tell of each run as it ends, in `states` too; those that failed: "failed" or "diverged"."""
    from robustbench_coss.pretrain.monitors import Diverged
    from robustbench_coss.pretrain.sweep import results

    failures: dict[Run, str] = {}
    for run, outcome in outcomes:
        if isinstance(outcome, CossError):
            failures[run] = "diverged" if isinstance(outcome, Diverged) else "failed"
            told = f"{failures[run]}: {outcome}"
        else:
            knn, seconds = results(run.folder)
            told = f"finished, kNN {_percent(knn)} %, {_seconds(seconds)} s"
        if states is not None:
            states[run] = failures.get(run, LABELS["finished"])
        console.print(f"{run.name}: {told}", soft_wrap=True)
    return failures


def _table(states: dict[Run, str]) -> Table:
    """One row per run: its name, its state and, once it runs, epochs, accuracy and time."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    from robustbench_coss.pretrain.sweep import epochs_done, results

    colours = {"failed": "red", "diverged": "red", "finished": "green"}
    shows_results = {RUNNING, LABELS["finished"]}
    table = Table(box=None, header_style="bold")
    table.add_column("run", min_width=max((cell_len(run.name) for run in states), default=0))
    table.add_column("state")
    table.add_column("kNN (%)", justify="right")
    table.add_column("seconds", justify="right")
    for run, state in states.items():
        knn, seconds = results(run.folder) if state in shows_results else (None, None)
        shown = (
            f"epoch {epochs_done(run.folder)}/{run.recipe.epochs}" if state == RUNNING else state
        )
        table.add_row(
            run.name,
            Text(shown, style=colours.get(state, "default")),
            _percent(knn),
            _seconds(seconds),
        )
    return table


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _seconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.0f}"
