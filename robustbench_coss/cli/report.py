"""`coss-bench report`: one document about measured models, as HTML or PDF."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_coss.cli.leaderboard import Force, Results
from robustbench_coss.errors import CossError
from robustbench_coss.machine.terminal import say

HTML_MARK = b'<meta name="generator" content="robustbench-coss'


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]…",
            help="Run folders or names, labels of configurations or their first words; default: "
            "everything in the results folder.",
            show_default=False,
        ),
    ] = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="With every condition, check, setting, command and recipe."),
    ] = False,
    results: Results = Path("results"),
    out: Annotated[
        Path, typer.Option(help="File to write; its ending, .html or .pdf, says the format.")
    ] = Path("report.html"),
    force: Force = False,
) -> None:
    """Write a report: summary, tables, figures, claims, and where every number comes from.

    One file that is whole in itself: HTML for any browser, or PDF (with the extra `report`).
    Failed sanity checks come first, every number has its 95 % interval, and what repeats it is at
    the end; --full adds every condition. Reads records only and measures nothing.

    Examples:

      coss-bench report runs/co-byol

      coss-bench report co-byol byol --out comparison.pdf

      coss-bench report --results /data/study/results
    """
    from robustbench_coss.figures.styles import PDF_MARK
    from robustbench_coss.files import write_chosen
    from robustbench_coss.pages.report.page import make_page

    ending = out.suffix.lower()
    if ending not in (".html", ".pdf"):
        raise CossError(f"cannot tell the format of {out}; end it in .html or .pdf")
    mark = PDF_MARK if ending == ".pdf" else HTML_MARK
    page = make_page(results, runs or [], full)
    if ending == ".html":
        write_chosen(out, page, force=force, mark=mark)
        say(f"wrote {out}")
        return
    from robustbench_coss.pages.report.pdf import to_pdf

    try:
        data = to_pdf(page)
    except CossError as error:
        instead = out.with_suffix(".html")
        write_chosen(instead, page, force=force, mark=HTML_MARK)
        raise CossError(f"{error}; wrote {instead} instead") from error
    write_chosen(out, data, force=force, mark=mark)
    say(f"wrote {out}")
