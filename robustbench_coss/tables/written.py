"""The files of a leaderboard in a results folder."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from robustbench_coss.analysis.calibration import conditions_table
from robustbench_coss.analysis.configurations import SeedGroup, load_measurements
from robustbench_coss.analysis.numbers import table_of
from robustbench_coss.files import LOCK, alone, csv_text, write_atomically
from robustbench_coss.tables.leaderboard import to_csv, to_markdown
from robustbench_coss.tables.paper import whole_table


def write_leaderboard(
    results: Path, measured: list[SeedGroup] | None = None, table: pd.DataFrame | None = None
) -> list[Path]:
    """Write `leaderboard.md`, `.csv` and `.tex` into a results folder, each whole or not at all.

    Args:
        measured, table: what `load_measurements(results)` and `table_of` of it gave, where the
            caller has them already.

    Returns:
        The three paths.

    Raises:
        CossError: there are no complete records, one is damaged, or the folder is not writable.
    """
    measured = load_measurements(results) if measured is None else measured
    table = table_of(measured) if table is None else table
    texts = {
        "md": to_markdown(table),
        "csv": to_csv(table),
        "tex": whole_table(measured, table).to_latex(),
    }
    paths = {results / f"leaderboard.{suffix}": text for suffix, text in texts.items()}
    with alone(results / LOCK, f"writing tables to {results}"):  # all three of one process
        for path, text in paths.items():
            write_atomically(path, text)
    return list(paths)


def write_conditions(results: Path, measured: list[SeedGroup]) -> Path:
    """Write `calibration.csv`, statistics of the probabilities under each condition.

    Args:
        measured: what `load_measurements(results)` gave.

    Raises:
        CossError: no record holds probabilities, or the folder is not writable.
    """
    path = results / "calibration.csv"
    text = csv_text(conditions_table(measured))
    with alone(results / LOCK, f"writing tables to {results}"):
        write_atomically(path, text)
    return path
