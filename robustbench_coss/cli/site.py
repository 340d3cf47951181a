"""`coss-bench site`: the leaderboard as web pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_coss.cli.leaderboard import Results
from robustbench_coss.machine.terminal import say


def site(
    results: Results = Path("results"),
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the pages, new or an earlier site; default: `site` in the results "
            "folder.",
            metavar="FOLDER",
        ),
    ] = None,
) -> None:
    """Write the leaderboard as web pages: tables to sort and filter, and a page for each model.

    The folder opens from disk in any browser, with no server and nothing fetched from elsewhere,
    and can be published as it is. Pages of models hold every condition of every suite, plots,
    sanity checks, provenance and the commands that repeat the measurement; two to four models can
    be compared on one plot. Reads records only.

    Examples:

      coss-bench site

      coss-bench site --results /data/study/results --out public
    """
    from robustbench_coss.pages.site import write_site

    say(f"wrote {write_site(results, out or results / 'site')}")
