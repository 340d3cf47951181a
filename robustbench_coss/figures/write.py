"""Figures of what was measured, for papers and slides, each with its data as CSV.

Every suite is drawn from its records' own groups, levels, metrics and wording. Files depend on the
records alone: same records, same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from robustbench_coss.analysis.configurations import (
    SeedGroup,
    TestSet,
    by_protocol,
    load_measurements,
    without_local_term,
)
from robustbench_coss.analysis.corruption_heat import heats
from robustbench_coss.analysis.curves import (
    curve_data,
    metric_data,
    metrics_apart,
    share_data,
)
from robustbench_coss.analysis.gains import gain_data
from robustbench_coss.analysis.numbers import rank_models
from robustbench_coss.errors import CossError, did_you_mean
from robustbench_coss.figures.bars import draw_metrics, draw_summary
from robustbench_coss.figures.cka import cka_data, draw_cka
from robustbench_coss.figures.curves import (
    draw_curves,
    plain,
)
from robustbench_coss.figures.heat import draw_heat, heat_table
from robustbench_coss.figures.looks import (
    Drawing,
    LineStyle,
    panel_styles,
)
from robustbench_coss.figures.overview import beside_clean, draw_gains, draw_tradeoff
from robustbench_coss.figures.pens import MOST_MODELS, pens_of
from robustbench_coss.figures.receptive_fields import draw_fields, field_sizes, read_fields
from robustbench_coss.figures.styles import PDF_MARK, PNG_MARK, SOFTWARE, styled
from robustbench_coss.figures.training import training_figures
from robustbench_coss.files import LOCK, alone, csv_text, slug, write_chosen

WORST = ("worst-linf", "worst-l2")
"""Groups of attacks that a figure shows where it shows no others."""

MOST_MAPS = 4  # models with a row or a panel of maps each


def write_figures(
    results: Path,
    names: Sequence[str] = (),
    *,
    style: str = "paper",
    inches: float | None = None,
    out: Path | None = None,
    force: bool = False,
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
        force: replace files that are no figures of this tool, too.

    Returns:
        Paths written, three per figure.

    Raises:
        CossError: there are no complete records, one is damaged, a figure is not among those that
            they allow, the folder is not writable, or another file has a figure's name.
    """
    measurements = load_measurements(results)
    with styled(style, inches):
        made = [
            (test_set, drawing)
            for test_set in dict.fromkeys(m.test_set for m in measurements)
            for drawing in draw_figures(measurements, test_set)
        ]
        known = list(dict.fromkeys(drawing.name for _, drawing in made))
        for name in names:
            if name not in known:
                hint = did_you_mean(name, known) or f"there are {', '.join(known)}"
                raise CossError(f"these records allow no figure {name!r}; {hint}")
        written: list[Path] = []
        top = out or results / "figures"
        with alone(top / LOCK, f"writing figures to {top}"):  # a figure and its numbers belong
            for test_set, drawing in made:  # together
                if not names or drawing.name in names:
                    path = top / test_set.slug / slug(drawing.name)
                    written += _save(path, drawing.data, drawing.draw(), force)
    return written


def draw_figures(measurements: Sequence[SeedGroup], test_set: TestSet) -> list[Drawing]:
    """Everything that measurements on one test set allow.

    Called within `styles.styled`, whose style the figures get.
    """
    here = [m for m in measurements if m.test_set == test_set]
    known = {m.label: m.configuration for m in here}
    ranked = [model for model in rank_models(here) if not known[model].control]
    pens, common = pens_of([known[model] for model in rank_models(here)])
    kept = [m for m in here if m.label in pens]
    cut = f"the {MOST_MODELS} best of {len(ranked)} models by clean top-1"
    note = "\n".join(filter(None, [common, cut if len(ranked) > MOST_MODELS else ""]))
    made = []
    for mine in by_protocol(kept):
        mine.sort(key=lambda m: list(pens).index(m.label))
        made += _suite_figures(test_set, mine, pens, note)
    return [*_summary(test_set, kept, pens, note), *made, *training_figures(test_set, here)]


def _suite_figures(
    test_set: TestSet, mine: list[SeedGroup], pens: dict[str, LineStyle], note: str
) -> list[Drawing]:
    """What one suite found under one protocol: curves, further metrics, further pictures."""
    first, key, about = mine[0], mine[0].key, mine[0].about
    made: list[Drawing] = []

    def add(name: str, data: pd.DataFrame, draw: Callable[..., Figure], *given: Any) -> None:
        caption, whole = about.captions.get(name, ""), f"{key}-{name}" if name else key
        made.append(Drawing(whole, data, partial(draw, *given), caption, key))

    own = first.records[0].axis
    worst = [group for group in WORST if any(c.group == group for c in first.records[0].cells)]
    for axis in (own, *about.also):
        curves = curve_data(mine, axis)
        if curves.empty:
            continue
        if worst and axis == own:  # the attacks one by one fill a figure of their own
            styles = panel_styles(mine, axis, curves["group"])
            given = (curves, pd.DataFrame(), axis, styles, about, test_set, pens, note)
            add("attacks", curves, draw_curves, *given)
            controls = [c for c, into in about.controls.items() if set(into) & set(worst)]
            kept = ["", *worst, *controls]
            curves = curves[curves["group"].isin(kept)].reset_index(drop=True)
        shares = share_data(mine) if about.suffices else pd.DataFrame()
        styles = panel_styles(mine, axis, curves["group"])
        numbers = curves if shares.empty else pd.concat([curves, shares])
        given = (curves, shares, axis, styles, about, test_set, pens, note)
        add("" if axis == own else axis.column, numbers, draw_curves, *given)
    made += [
        Drawing(
            f"{key}-heat",
            heat_table(heat),
            partial(draw_heat, heat, pens),
            "Top-1 errors under each corruption, means over severities and seeds.",
            key,
        )
        for heat in heats(mine)
    ]
    apart = metric_data(mine, metrics_apart(first.records[0]))
    if not apart.empty:
        add("metrics", apart, draw_metrics, apart, pens, note)
    fields, basis = {}, {}
    for m in few(mine) if "fields" in about.pictures else []:
        if found := read_fields(m.records[0]):
            fields[pens[m.label].label] = found
            seeds = f", first of {len(m.records)} seeds" * (len(m.records) > 1)
            basis[pens[m.label].label] = f"{len(m.records[0].index):,} test images{seeds}"
    if fields:
        add("fields", field_sizes(fields), draw_fields, fields, basis)
    cka = cka_data(few(mine)) if "cka" in about.pictures else pd.DataFrame()
    if not cka.empty:
        titles = {model: plain(pen.label) for model, pen in pens.items()}
        add("cka", cka, draw_cka, cka, titles)
    return made


def few(ranked: Sequence[SeedGroup]) -> list[SeedGroup]:
    """At most `MOST_MAPS` models for figures of a panel or a row each: pairs of a base method and
    its CO- form first, then the best.
    """
    models = [m for m in ranked if not m.control] or list(ranked)
    chosen: list[SeedGroup] = []
    for m in models:
        base = without_local_term(m, models)
        if base is not None and m not in chosen and base not in chosen:
            chosen += [base, m]
    chosen += [m for m in models if m not in chosen]
    return [m for m in ranked if any(m is other for other in chosen[:MOST_MAPS])]


def _summary(
    test_set: TestSet, measurements: list[SeedGroup], pens: dict[str, LineStyle], note: str
) -> list[Drawing]:
    summary = pd.concat(
        [
            metric_data([m], [k for k in m.records[0].metrics if k.headline and k.percent])
            for m in measurements
        ]
    )
    if summary.empty:
        return []
    made = [
        Drawing(
            "summary",
            summary,
            partial(draw_summary, summary, test_set, pens, note),
            "All headline shares with 95 % intervals.",
            "summary",
        )
    ]
    gains = gain_data(measurements)
    if not gains.empty:
        caption = "What CO- methods gain over their base methods, in points of the headline shares."
        draw = partial(draw_gains, gains, pens, note)
        made.append(Drawing("gains", gains, draw, caption, "summary"))
    if beside_clean(summary):
        caption = "Headline shares against clean top-1; grey: the front of the best."
        draw = partial(draw_tradeoff, summary, pens, note)
        made.append(Drawing("tradeoff", summary, draw, caption, "summary"))
    return made


def _save(stem: Path, data: pd.DataFrame, figure: Figure, force: bool) -> list[Path]:
    # Dates and versions of the software would make equal figures unequal files.
    undated = {"pdf": {"CreationDate": None, "Creator": SOFTWARE}, "png": {"Software": SOFTWARE}}
    marks = {"pdf": PDF_MARK, "png": PNG_MARK}
    contents: list[tuple[str, bytes | str, bytes]] = []
    for suffix, metadata in undated.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, metadata=metadata)
        figure.set_layout_engine("none")  # laid out once, for both
        contents.append((suffix, buffer.getvalue(), marks[suffix]))
    contents.append(("csv", csv_text(data), ",".join(data.columns[:3]).encode()))
    paths = []
    for suffix, content, found in contents:
        paths.append(stem.with_name(f"{stem.name}.{suffix}"))
        write_chosen(paths[-1], content, force=force, mark=found)
    return paths
