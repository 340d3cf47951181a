"""Commands that turn records into tables and figures. They measure nothing."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from robustbench_coss.errors import CossError

Results = Annotated[
    Path, typer.Option(help="Folder that `coss-bench eval` wrote its records into.")
]


class Format(StrEnum):
    """How tables can be written."""

    md = "md"
    csv = "csv"
    tex = "tex"


class SpreadShown(StrEnum):
    """What stands beside the numbers of a table."""

    interval = "interval"
    sd = "sd"


def format_of(out: Path) -> Format:
    """The format that a file's ending names.

    Raises:
        CossError: it names none.
    """
    ending = out.suffix.removeprefix(".").lower()
    if ending not in list(Format):
        raise CossError(f"cannot tell the format of {out}; end it in .md, .csv or .tex")
    return Format(ending)


def names_in(given: Sequence[str] | None) -> list[str]:
    """The names of an option that can be repeated or hold several, "a,b"."""
    return [name.strip() for text in given or [] for name in text.split(",") if name.strip()]


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
    models: Annotated[
        list[str] | None,
        typer.Option(help="Rows, in this order (repeat or a,b): labels, their first words, runs."),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(help="Columns, in this order (repeat or a,b): `clean_top1` or a heading."),
    ] = None,
    suites: Annotated[
        list[str] | None, typer.Option(help="Columns of these suites only (repeat or a,b).")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Mark what differs significantly from this model."),
    ] = None,
    relative_to: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Differences to this model, the significant marked."),
    ] = None,
    spread: Annotated[
        SpreadShown, typer.Option(help="95 % intervals, or standard deviations over seeds.")
    ] = SpreadShown.interval,
    format: Annotated[
        Format | None, typer.Option(help="Write this instead of a table for the terminal.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; its ending says the format, unless --format does."),
    ] = None,
) -> None:
    """Print the leaderboard and write it as Markdown, CSV and LaTeX.

    One row per configuration, seeds put together; one table per test set; every number with its
    95 % interval. Reads records only, so it takes seconds and can be repeated at any time.

    With any of the options from --models on it makes a table for a paper instead, prints that and
    leaves the files in the results folder alone; --out says where to write it.

    Examples:

      coss-bench leaderboard

      coss-bench leaderboard --results /data/study/results

      coss-bench leaderboard --baseline alexnet

      coss-bench leaderboard --models BYOL,CO-BYOL --spread sd

      coss-bench leaderboard --suites clean,crop --relative-to BYOL --out table.tex
    """
    from rich.console import Console

    chosen = models or metrics or suites or against or relative_to or format or out
    if chosen or spread is not SpreadShown.interval:
        from robustbench_coss.paper_tables import paper_table

        wanted = format or (None if out is None else format_of(out))
        paper = paper_table(
            results,
            models=names_in(models),
            metrics=names_in(metrics),
            suites=names_in(suites),
            against=against,
            relative_to=relative_to,
            spread=spread.value,
            baseline=baseline,
        )
        if wanted is None:
            Console().print(paper.to_rich())
            return
        writers = {
            Format.md: paper.to_markdown,
            Format.csv: paper.to_csv,
            Format.tex: paper.to_latex,
        }
        _deliver(writers[wanted](), out)
        return
    from robustbench_coss.leaderboard import load_table, to_rich, write_leaderboard

    table = load_table(results, baseline)
    Console().print(to_rich(table))
    for path in write_leaderboard(results, table):
        typer.echo(f"wrote {path}")


def _deliver(text: str, out: Path | None) -> None:
    from robustbench_coss.files import write_atomically

    if out is None:
        typer.echo(text, nl=False)
        return
    write_atomically(out, text)
    typer.echo(f"wrote {out}")


class Style(StrEnum):
    """What figures are for; see `styles`."""

    paper = "paper"
    slides = "slides"


class Width(StrEnum):
    """How much of a page figures span."""

    column = "column"
    full = "full"


def plot(
    results: Results = Path("results"),
    figure: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Draw these only (repeat or a,b); default: all."),
    ] = None,
    style: Annotated[
        Style, typer.Option(help="Text and lines of a size for papers or for slides.")
    ] = Style.paper,
    venue: Annotated[
        str | None,
        typer.Option(
            help="Make them as wide as a page of: cvpr, iccv, eccv, icml, neurips, iclr, ieee."
        ),
    ] = None,
    width: Annotated[
        Width, typer.Option(help="With --venue: one column, or all of them.")
    ] = Width.column,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write into; default: figures/ in the results.")
    ] = None,
) -> None:
    """Draw the figures of all suites as PDF and PNG, each with its numbers as CSV.

    Figures go to `figures/<test set>/` in the results folder: accuracy along each suite's axis
    with 95 % intervals, a summary, and clean accuracy along training settings that a sweep varied.
    They are as wide as one column of a paper, or as --venue and --style say. Fonts are embedded.

    Examples:

      coss-bench plot

      coss-bench plot --figure corruption --venue cvpr --width full --out figures

      coss-bench plot --style slides --out slides
    """
    from robustbench_coss.figures import write_figures
    from robustbench_coss.styles import VENUES

    inches = None
    if venue is not None:
        found = VENUES.get(venue.casefold())
        if found is None:
            raise CossError(f"unknown venue {venue!r}; known: {', '.join(VENUES)}")
        if style is not Style.paper:
            raise CossError("--venue is for the pages of papers; leave it out with --style slides")
        inches = found.full if width is Width.full else found.column
    elif width is Width.full:
        raise CossError("--width is of the pages of a --venue; name that too")
    names = names_in(figure)
    for path in write_figures(results, names, style=style, inches=inches, out=out):
        typer.echo(f"wrote {path}")
