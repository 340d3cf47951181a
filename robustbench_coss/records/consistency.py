"""What fields of a record say of each other: held by every reader, as its form is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from robustbench_coss.records.confidence import has

if TYPE_CHECKING:
    from robustbench_coss.records.record import Record


def check_consistency(record: Record) -> None:
    """Refuse a record whose parts do not fit together.

    Raises:
        ValueError: a condition, metric, check or image occurs twice, columns, labels or counts do
            not fit the images, or a metric is of a condition or column that is not there.
    """
    n = record.index.size
    data = record.dataset
    if n == 0 or record.label.size != n or data["n"] != n:
        raise ValueError(f"{n} images and {record.label.size} labels, dataset.n is {data['n']}")
    if data["limit"] is not None and n > data["limit"]:
        raise ValueError(f"{n} images, more than dataset.limit {data['limit']}")
    for name, column in (("index", record.index), ("label", record.label)):
        if column.dtype.kind != "i" or int(column.min()) < 0:
            raise ValueError(f"{name} is not of numbers from 0")
    if int(record.label.max()) >= data["classes"]:
        raise ValueError(f"label {record.label.max()} of {data['classes']} classes")
    if (np.diff(np.sort(record.index)) == 0).any():
        raise ValueError("an image is there twice")
    for what, names in (
        ("condition", (cell.condition for cell in record.cells)),
        ("metric", (metric.name for metric in record.metrics)),
        ("check", (check.name for check in record.checks)),
    ):
        _once(what, names)
    others = {c: each["n"] for each in data.get("others", ()) for c in each["conditions"]}
    for cell in record.cells:
        wanted = others.get(cell.condition, n)
        for name, column in cell.outcomes.items():
            if column.size != wanted:
                raise ValueError(f"{column.size} outcomes {name} of {cell.condition}, not {wanted}")
    if record.complete:
        columns = {cell.condition: cell.outcomes for cell in record.cells}
        for metric in record.metrics:
            _once(f"condition of metric {metric.name}", metric.conditions)
            if len({others.get(condition, n) for condition in metric.conditions}) > 1:
                raise ValueError(f"metric {metric.name} is of conditions on different images")
            for condition in metric.conditions:
                if not has(columns.get(condition, {}), metric.column):
                    raise ValueError(f"metric {metric.name} is of {condition}, which is not there")


def _once(what: str, names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{what} {twice[0]} is there twice")
