"""The options of `coss-bench sweep`: names, help and types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SweepName = Annotated[
    str, typer.Argument(help="Sweep file, or name of a shipped sweep.", metavar="FILE|NAME")
]
Recipe = Annotated[
    str | None,
    typer.Option(help="Recipe to vary, instead of the sweep's own.", metavar="FILE|NAME"),
]
Runs = Annotated[
    Path | None,
    typer.Option(help="Folder of the run folders; default: runs/SWEEP.", metavar="FOLDER"),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="List the runs and their states, train nothing.")
]
Jobs = Annotated[
    int | None,
    typer.Option(
        help="Runs side by side on this machine, in a process each; default: one after the other "
        "in this one.",
        metavar="N",
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        help="Hand the runs to Ray: the address of a cluster, or auto for this machine.",
        metavar="ADDRESS|auto",
    ),
]
GpusPerRun = Annotated[
    float | None,
    typer.Option(
        help="With --cluster: GPU share of a run; default: 1 if there are GPUs, else 0.",
        min=0,
        max=1,
    ),
]
