"""Figures of what was measured, for papers and slides, each with its data as CSV.

Every suite is drawn from its records' own groups, levels and metrics; `LOOKS` only adds wording
and scales for the project's own suites. Files depend on the records alone: same records, same
bytes.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from robustbench_coss.analysis.configurations import (
    SeedGroup,
    TestSet,
    load_measurements,
)
from robustbench_coss.analysis.curves import (
    curve_data,
    legend_labels,
    metric_data,
    metrics_apart,
    rank_models,
    share_data,
)
from robustbench_coss.errors import CossError
from robustbench_coss.figures.bars import draw_metrics, draw_summary
from robustbench_coss.figures.cka import cka_data, draw_cka
from robustbench_coss.figures.curves import (
    draw_curves,
    plain,
)
from robustbench_coss.figures.looks import (
    COLOURS,
    DASHES,
    LOOKS,
    MARKERS,
    MOST_MODELS,
    LineStyle,
    PanelStyle,
)
from robustbench_coss.figures.receptive_fields import draw_fields, field_sizes, read_fields
from robustbench_coss.figures.styles import styled
from robustbench_coss.figures.training import training_figures
from robustbench_coss.files import slug, write_atomically


def write_figures(
    results: Path,
    names: Sequence[str] = (),
    *,
    style: str = "paper",
    inches: float | None = None,
    out: Path | None = None,
) -> list[Path]:
    """Draw every figure that the records allow into `results/figures/<test set>/`.

    Each figure is a PDF, a PNG and the CSV of its numbers. More than `MOST_MODELS` models are
    cut to the best by clean top-1, and the figure says so; its CSV holds what is drawn.

    Args:
        results: folder of the records.
        names: figures to draw ("corruption", "training-crop"); none for all.
        style: one of `styles.STYLES`.
        inches: width of the figures; None for that of the style.
        out: folder to write into instead of `results/figures`.

    Returns:
        Paths written, three per figure.

    Raises:
        CossError: there are no complete records, one is damaged, a figure is not among those that
            they allow, or the folder is not writable.
    """
    measurements = load_measurements(results)
    with styled(style, inches):
        made = [
            (test_set, name, data, figure)
            for test_set in dict.fromkeys(m.test_set for m in measurements)
            for name, data, figure in draw_figures(measurements, test_set)
        ]
        known = list(dict.fromkeys(name for _, name, _, _ in made))
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known)
                hint = (
                    f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}"
                )
                raise CossError(f"these records allow no figure {name!r}; {hint}")
        written: list[Path] = []
        for test_set, name, data, figure in made:
            if not names or name in names:
                folder = (out or results / "figures") / test_set.slug
                written += _save(folder / slug(name), data, figure)
    return written


def draw_figures(
    measurements: Sequence[SeedGroup], test_set: TestSet
) -> list[tuple[str, pd.DataFrame, Figure]]:
    """(name, data, figure) of everything that measurements on one test set allow.

    Called within `styles.styled`, whose style the figures get.
    """
    here = [m for m in measurements if m.test_set == test_set]
    ranked = rank_models(here)
    labels, common = legend_labels(ranked[:MOST_MODELS])
    pens = {
        model: LineStyle(labels[i], COLOURS[i], MARKERS[i], DASHES[i])
        for i, model in enumerate(ranked[:MOST_MODELS])
    }
    kept = [m for m in here if m.configuration in pens]
    cut = f"the {MOST_MODELS} best of {len(ranked)} models by clean top-1"
    note = "\n".join(filter(None, [common, cut if len(ranked) > MOST_MODELS else ""]))
    return _figures(test_set, kept, pens, note) + training_figures(test_set, here)


def _figures(
    test_set: TestSet, measurements: list[SeedGroup], pens: dict[str, LineStyle], note: str
) -> list[tuple[str, pd.DataFrame, Figure]]:
    """(name, data, figure) of everything that can be drawn for one test set."""
    made: list[tuple[str, pd.DataFrame, Figure]] = []
    for suite, protocol in dict.fromkeys((m.suite, m.protocol) for m in measurements):
        mine = [m for m in measurements if (m.suite, m.protocol) == (suite, protocol)]
        mine.sort(key=lambda m: list(pens).index(m.configuration))
        name = f"{suite}-{protocol}" if protocol else suite
        look = LOOKS.get(suite, PanelStyle())
        for axis in (mine[0].records[0].axis, *look.also):
            curves = curve_data(mine, axis)
            if curves.empty:
                continue
            shares = share_data(mine) if look.suffices else pd.DataFrame()
            figure = draw_curves(curves, shares, axis, look, test_set, pens, note)
            column = "" if axis == mine[0].records[0].axis else f"-{axis.column}"
            numbers = curves if shares.empty else pd.concat([curves, shares])
            made.append((f"{name}{column}", numbers, figure))
        apart = metric_data(mine, metrics_apart(mine[0].records[0]))
        if not apart.empty:
            made.append((f"{name}-metrics", apart, draw_metrics(apart, pens, note)))
        fields = {
            pens[m.configuration].label: found
            for m in mine
            if suite == "rf" and (found := read_fields(m.records[0]))
        }
        if fields:
            made.append((f"{name}-fields", field_sizes(fields), draw_fields(fields)))
        cka = cka_data(mine) if suite == "redundancy" else pd.DataFrame()
        if not cka.empty:
            titles = {model: plain(pen.label) for model, pen in pens.items()}
            made.append((f"{name}-cka", cka, draw_cka(cka, titles)))
    summary = pd.concat(
        [
            metric_data([m], [k for k in m.records[0].metrics if k.headline and k.percent])
            for m in measurements
        ]
    )
    if not summary.empty:
        made.insert(0, ("summary", summary, draw_summary(summary, test_set, pens, note)))
    return made


"""Figure name -> dotted key of the training setting that it is drawn along, and its x label."""


def _save(stem: Path, data: pd.DataFrame, figure: Figure) -> list[Path]:
    # Dates and versions of the software would make equal figures unequal files.
    undated = {"pdf": {"CreationDate": None}, "png": {"Software": None}}
    paths = []
    for suffix, metadata in undated.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, metadata=metadata)
        figure.set_layout_engine("none")  # laid out once, for both
        paths.append(stem.with_name(f"{stem.name}.{suffix}"))
        write_atomically(paths[-1], buffer.getvalue())
    paths.append(stem.with_name(f"{stem.name}.csv"))
    write_atomically(paths[-1], data.to_csv(index=False, lineterminator="\n"))
    return paths
