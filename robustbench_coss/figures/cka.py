"""Heat maps of CKA between positions, from what the suite `redundancy` leaves in its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from robustbench_coss.analysis.configurations import SeedGroup
from robustbench_coss.errors import CossError, kind_and_line
from robustbench_coss.figures.curves import basis, new_figure
from robustbench_coss.figures.styles import panels_across
from robustbench_coss.records.record import Record

LETTERS = 22  # that fit above a panel


def cka_data(measurements: Sequence[SeedGroup]) -> pd.DataFrame:
    """CKA of every ordered pair of positions of every model that has it, mean over seeds.

    Columns: suite, model, row_a, column_a, row_b, column_b (of the map of local representations),
    value, sd (over seeds; NaN for a single one), seeds, n (test images). Empty if there is none.

    Raises:
        CossError: a record holds something else under "cka", or seeds differ in their positions.
    """
    lines = []
    for m in measurements:
        found = [_read(record) for record in m.records if "cka" in record.extra]
        if not found:
            continue
        _, positions, images = found[0]
        if any(other != positions for _, other, _ in found):
            raise CossError(
                f"seeds of {m.label} have CKA at different positions; "
                "measure them again with `coss-bench eval … --suite redundancy --force`"
            )
        values = np.stack([matrix for matrix, *_ in found])
        mean = values.mean(axis=0)
        sd = values.std(axis=0, ddof=1) if len(found) > 1 else np.full_like(mean, np.nan)
        lines += [
            {
                "suite": m.suite,
                "model": m.label,
                "row_a": a[0],
                "column_a": a[1],
                "row_b": b[0],
                "column_b": b[1],
                "value": mean[i, j],
                "sd": sd[i, j],
                "seeds": len(found),
                "n": images,
            }
            for i, a in enumerate(positions)
            for j, b in enumerate(positions)
        ]
    return pd.DataFrame(lines)


def _read(record: Record) -> tuple[NDArray[np.float64], list[tuple[int, int]], int]:
    """CKA, the positions that it is of, and how many images it was found on."""
    try:
        matrix = np.array(record.extra["cka"], dtype=np.float64)
        positions = [(int(row), int(column)) for row, column in record.extra["cka_positions"]]
        images = int(record.extra.get("cka_images", len(record.index)))
        if matrix.shape != (len(positions), len(positions)) or not np.isfinite(matrix).all():
            raise ValueError(f"a matrix of {matrix.shape} for {len(positions)} positions")
    except (KeyError, TypeError, ValueError) as error:
        raise CossError(
            f"the redundancy record of {record.model['name']} holds no CKA that can be read "
            f"({kind_and_line(error)}); delete it and run `coss-bench eval` again"
        ) from error
    return matrix, positions, images


def draw_cka(data: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """One panel per model with a common colour scale; positions are ordered row by row.

    Args:
        data: see `cka_data`.
        titles: of the panels, by model, in the order drawn.
    """
    models = [model for model in titles if model in set(data["model"])]
    columns = min(panels_across(), len(models))
    rows = -(-len(models) // columns)
    heads = {model: _folded(titles[model]) for model in models}
    most = max(head.count("\n") for head in heads.values())
    figure = new_figure((1.75 + 0.12 * most) * rows + 0.25)
    panels = figure.subplots(rows, columns, squeeze=False)
    shades = Normalize(min(0.0, float(data["value"].min())), 1)
    for panel, model in zip(panels.flat, models, strict=False):
        mine = data[data["model"] == model]
        side = round(len(mine) ** 0.5)
        matrix = mine["value"].to_numpy().reshape(side, side)
        image = panel.imshow(matrix, cmap="cividis", norm=shades, interpolation="nearest")
        _mark_rows(panel, mine["row_b"].to_numpy()[:side])
        apart = matrix[~np.eye(side, dtype=bool)].mean()
        panel.set_title(f"{heads[model]}\nmean of pairs {apart:.2f}")
    for panel in panels.flat[len(models) :]:
        panel.set_axis_off()
    bar = figure.colorbar(image, ax=panels, fraction=0.05, pad=0.02, aspect=30)
    bar.set_label(f"CKA of two positions\n{basis(data)}")
    bar.outline.set_visible(False)
    return figure


def _folded(title: str) -> str:
    """A label in lines that stay within a panel, broken between its words or a name's parts."""
    if len(title) > LETTERS and " " not in title:
        parts = title.replace(":", ": ")
        return fill(parts, LETTERS, break_on_hyphens=False).replace(": ", ":")
    return fill(title, LETTERS, break_long_words=False, break_on_hyphens=False)


def _mark_rows(panel: Any, row_of: NDArray[Any]) -> None:
    """Lines between the rows of the map and their numbers along both axes."""
    starts = np.flatnonzero(np.r_[True, row_of[1:] != row_of[:-1]])
    ends = np.r_[starts[1:], len(row_of)]
    for start in starts[1:]:
        panel.axhline(start - 0.5, color="white", linewidth=0.6)
        panel.axvline(start - 0.5, color="white", linewidth=0.6)
    middle, names = (starts + ends - 1) / 2, [str(row_of[start]) for start in starts]
    panel.set_xticks(middle, names)
    panel.set_yticks(middle, names)
    panel.set_xlabel("row of the map")
    panel.set_ylabel("row of the map")
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
