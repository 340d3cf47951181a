"""Values and texts of tables, and records for them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from helpers import simulate
from robustbench_coss.records.record import Cell, Metric, Record


def value(table: pd.DataFrame, model: str, metric: str) -> pd.Series:
    (line,) = [
        line
        for _, line in table.iterrows()
        if line["model"].startswith(model) and line["metric"] == metric
    ]
    return line


def suite_record(
    suite: str, share: float, better: str = "higher", n: int = 200, **options: Any
) -> Record:
    metric = Metric(f"{suite}_number", f"{suite} number", "correct", ("c",), better)
    cells = [Cell("c", "g", 1.0, {"correct": simulate.exactly(share, n)})]
    return simulate.record(cells, [metric], suite=suite, **options)
