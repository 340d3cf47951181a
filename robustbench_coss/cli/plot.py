"""`coss-bench plot`: figures from records. It measures nothing."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from robustbench_coss.cli.leaderboard import Force, Results, names_in
from robustbench_coss.cli.settings import not_the_root
from robustbench_coss.errors import CossError, unknown_name
from robustbench_coss.machine.terminal import say


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
    force: Force = False,
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
    from robustbench_coss.figures.styles import VENUES
    from robustbench_coss.figures.write import write_figures

    not_the_root("--out", out)
    inches = None
    if venue is not None:
        found = VENUES.get(venue.casefold())
        if found is None:
            raise unknown_name("venue", venue, VENUES, more="")
        if style is not Style.paper:
            raise CossError("--venue is for the pages of papers; leave it out with --style slides")
        inches = found.full if width is Width.full else found.column
    elif width is Width.full:
        raise CossError("--width is of the pages of a --venue; name that too")
    names = names_in(figure)
    for path in write_figures(results, names, style=style, inches=inches, out=out, force=force):
        say(f"wrote {path}")
