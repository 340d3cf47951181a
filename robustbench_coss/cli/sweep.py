"""`coss-bench sweep`: pretrain every combination of a grid, here or on a Ray cluster."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_coss.errors import CossError
from robustbench_coss.files import LOCK, alone, remove_leftovers
from robustbench_coss.machine.terminal import Screen, say, show

if TYPE_CHECKING:
    from rich.table import Table

    from robustbench_coss.pretrain.sweep import Run

LABELS = {"new": "to start", "interrupted": "to resume", "finished": "finished"}


def sweep(
    sweep: Annotated[
        str, typer.Argument(help="Sweep file, or name of a shipped sweep.", metavar="FILE|NAME")
    ],
    recipe: Annotated[
        str | None,
        typer.Option(help="Recipe to vary, instead of the sweep's own.", metavar="FILE|NAME"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run folders; default: runs/SWEEP.", metavar="FOLDER"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs and their states, train nothing.")
    ] = False,
    device: Annotated[
        str, typer.Option(help="auto, cpu or cuda.", metavar="auto|cpu|cuda")
    ] = "auto",
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Hand the runs to Ray: the address of a cluster, or auto for this machine.",
            metavar="ADDRESS|auto",
        ),
    ] = None,
    gpus_per_run: Annotated[
        float | None,
        typer.Option(
            help="With --cluster: GPU share of a run; default: 1 if there are GPUs, else 0.",
            min=0,
            max=1,
        ),
    ] = None,
    data_root: Annotated[Path, typer.Option(help="Folder of the data sets.")] = Path("data"),
    download: Annotated[
        bool, typer.Option("--download", help="Fetch a missing data set if it can be fetched.")
    ] = False,
) -> None:
    """Pretrain every combination of a grid over a recipe.

    Every run is what `coss-bench pretrain` would write, in a folder named by what varies. Finished
    runs are skipped and interrupted ones go on from their last checkpoint, so after a stop for
    whatever reason, run the same command again. A run that fails does not stop the others.

    Examples:

      coss-bench sweep crop --dry-run

      coss-bench sweep crop

      coss-bench sweep my-sweep.yaml --cluster auto --gpus-per-run 0.5
    """
    from robustbench_coss.pretrain.sweep import plan, read_sweep, state

    if gpus_per_run is not None and cluster is None:
        raise CossError("--gpus-per-run is for --cluster; a run here has the device to itself")
    wanted = read_sweep(sweep)
    if recipe is not None:
        wanted = wanted.model_copy(update={"recipe": recipe})
    folder = out or Path(wanted.out or Path("runs") / Path(sweep).stem)
    if cluster is not None:  # workers have a working folder of their own
        folder, data_root = folder.resolve(), data_root.resolve()
    runs = plan(wanted, folder)
    states = {run: LABELS[state(run)] for run in runs}
    if dry_run:
        show(_table(states))
        say(f"{len(runs)} runs in {folder}: {_to_go(states)}")
        return
    try:
        with alone(folder / LOCK, f"running a sweep in {folder}"):
            failures = _train(runs, device, cluster, gpus_per_run, data_root, download)
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
    cluster: str | None,
    gpus: float | None,
    data_root: Path,
    download: bool,
) -> dict[Run, str]:
    """Train what is not finished and tell of each run; those that "failed" or "diverged"."""
    from rich.progress import MofNCompleteColumn, TimeElapsedColumn

    from robustbench_coss.machine.executors import in_process, on_ray
    from robustbench_coss.machine.terminal import progress_bar
    from robustbench_coss.pretrain.monitors import Diverged
    from robustbench_coss.pretrain.sweep import prepare_data, results, state, train

    for run in runs:
        remove_leftovers(run.folder)
    runs = [run for run in runs if state(run) != "finished"]
    if not runs:
        return {}
    prepare_data(runs, data_root, download)
    console = Screen(stderr=True)
    failures: dict[Run, str] = {}

    def here(run: Run) -> None:
        numbered = f"[{runs.index(run) + 1}/{len(runs)}] {run.name}"
        say(numbered, err=True)
        train(run, device=device, data_root=data_root)

    bar = progress_bar(console, MofNCompleteColumn(), TimeElapsedColumn(), width=20)
    with ExitStack() as stack:
        if cluster is None:
            outcomes = in_process(here, runs)
        else:
            share = {"cpu": 0.0, "cuda": 1.0}.get(device) if gpus is None else gpus
            execute = stack.enter_context(on_ray(cluster, share))
            remote = execute(partial(train, device=device, data_root=data_root), runs)
            stack.enter_context(bar)  # in this process, each run shows its own
            outcomes = iter(bar.track(remote, total=len(runs), description="runs"))
        for run, outcome in outcomes:
            if isinstance(outcome, CossError):
                failures[run] = "diverged" if isinstance(outcome, Diverged) else "failed"
                told = f"{failures[run]}: {outcome}"
            else:
                knn, seconds = results(run.folder)
                told = f"finished, kNN {_percent(knn)} %, {_seconds(seconds)} s"
            line = f"{run.name}: {told}"
            console.print(line, soft_wrap=True)
    return failures


def _table(states: dict[Run, str]) -> Table:
    """One row per run: its name, its state and, once it is finished, accuracy and time."""
    from rich.table import Table
    from rich.text import Text

    from robustbench_coss.pretrain.sweep import results

    colours = {"failed": "red", "diverged": "red", "finished": "green"}
    table = Table(box=None, header_style="bold")
    table.add_column("run", overflow="fold")
    table.add_column("state")
    table.add_column("kNN (%)", justify="right")
    table.add_column("seconds", justify="right")
    for run, state in states.items():
        knn, seconds = results(run.folder) if state == "finished" else (None, None)
        table.add_row(
            run.name,
            Text(state, style=colours.get(state, "default")),
            _percent(knn),
            _seconds(seconds),
        )
    return table


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _seconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.0f}"
