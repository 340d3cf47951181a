"""`coss-bench compare`: which of two measured models is better, and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_coss.cli.eval_options import DataRoot
from robustbench_coss.cli.leaderboard import (
    Calibration,
    Force,
    Format,
    OutFile,
    Results,
    TableFormat,
    deliver_tables,
    format_of,
    names_in,
)
from robustbench_coss.machine.terminal import say

Model = Annotated[
    str,
    typer.Argument(
        help="A configuration's label or its first words, a run's name or folder of records, or "
        "the first characters of a checkpoint's SHA-256."
    ),
]


Trials = Annotated[
    Path | None,
    typer.Option(
        metavar="CSV|FOLDER",
        help="Also compare error consistency with the observers of model-vs-human's trials.",
    ),
]


def compare(
    a: Model,
    b: Model,
    suite: Annotated[
        list[str] | None, typer.Option(help="Compare in these suites only (repeat or a,b).")
    ] = None,
    cells: Annotated[
        bool, typer.Option("--cells", help="Also compare every single condition.")
    ] = False,
    calibration: Calibration = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Compare in all metrics, not the headline ones alone.")
    ] = False,
    trials: Trials = None,
    data_root: DataRoot = Path("data"),
    format: TableFormat = None,
    out: OutFile = None,
    results: Results = Path("results"),
    force: Force = False,
) -> None:
    """Compare two measured models, from their records alone.

    A verdict in a sentence, then the differences in the headline metrics, image by image, with 95 %
    intervals and p-values corrected for their number. What cannot be compared is named.

    Examples:

      coss-bench compare byol-s0 co-byol-s0

      coss-bench compare CO-BYOL BYOL --suite clean --out comparison.md
    """
    from robustbench_coss.analysis.comparison import compare as compare_models
    from robustbench_coss.files import csv_text
    from robustbench_coss.tables.comparison import layout

    wanted = format or (None if out is None else format_of(out, Format))
    beside = None
    if trials is not None:
        from robustbench_coss.analysis.trials import read_trials
        from robustbench_coss.evaluations.trials import Beside

        beside = Beside(read_trials(trials), data_root)
    found = compare_models(
        results,
        a,
        b,
        names_in(suite),
        cells,
        calibration=calibration,
        everything=everything,
        beside=beside,
    )
    if beside is not None:
        beside.check_met()
    data, heading = (lambda: csv_text(found.table)), f"{found.a} against {found.b}"
    deliver_tables(layout(found), heading, "compare", data, wanted, out, force)
    if wanted is Format.csv:  # the other formats have these below their tables
        for reason in found.refused:
            say(f"not compared: {reason}", err=True)
