"""Commands that turn records into tables and figures. They measure nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Results = Annotated[
    Path, typer.Option(help="Folder that `coss-bench eval` wrote its records into.")
]


def leaderboard(
    results: Results = Path("results"),
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="alexnet|MODEL",
            help="Add mCE and relative mCE: corruption errors divided by those that AlexNet has on "
            "ImageNet-C, or by those of a measured model (label, run name or checkpoint hash).",
        ),
    ] = None,
) -> None:
    """Print the leaderboard and write it as Markdown, CSV and LaTeX.

    One row per configuration, seeds put together; one table per test set; every number with its
    95 % interval. Reads records only, so it takes seconds and can be repeated at any time.

    Examples:

      coss-bench leaderboard

      coss-bench leaderboard --results /data/study/results

      coss-bench leaderboard --baseline alexnet
    """
    from rich.console import Console

    from robustbench_coss.leaderboard import load_table, to_rich, write_leaderboard

    table = load_table(results, baseline)
    Console().print(to_rich(table))
    for path in write_leaderboard(results, table):
        typer.echo(f"wrote {path}")


def plot(results: Results = Path("results")) -> None:
    """Draw the figures of all suites as PDF and PNG, each with its numbers as CSV.

    Figures go to `figures/<test set>/` in the results folder: accuracy along each suite's axis
    with 95 % intervals, a summary, and clean accuracy along training settings that a sweep varied.
    They are as wide as one column of a paper.

    Examples:

      coss-bench plot

      coss-bench plot --results /data/study/results
    """
    from robustbench_coss.figures import write_figures

    for path in write_figures(results):
        typer.echo(f"wrote {path}")
