"""`coss-bench claims`: which claims of the CO-SSL paper the records bear out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from robustbench_coss.cli.leaderboard import Force, OutFile, Results, deliver, format_of
from robustbench_coss.machine.terminal import show


class Format(StrEnum):
    """How verdicts can be written."""

    md = "md"
    tex = "tex"
    json = "json"


def claims(
    format: Annotated[
        Format | None, typer.Option(help="Write this instead of tables for the terminal.")
    ] = None,
    out: OutFile = None,
    ablations: Annotated[
        bool,
        typer.Option(
            "--ablations",
            help="Count models that are not the method as published: another w_s, grid, layer or "
            "target, shared heads, another MLP.",
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Also name the records that the tables rest on.")
    ] = False,
    results: Results = Path("results"),
    force: Force = False,
) -> None:
    """Test each claim of the CO-SSL paper on the records at hand.

    CO- models against their base methods, all else equal, seed by seed: the effect with its 95 %
    interval, and whether the claim is supported, not supported or undecided. Reads records only. A
    claim that there are no records for is named, with the command that makes them.

    Examples:

      coss-bench claims

      coss-bench claims --results /data/study/results --out claims.md
    """
    import json

    from robustbench_coss.claims.verdicts import examine
    from robustbench_coss.tables import cells
    from robustbench_coss.tables.claims import layout, to_json
    from robustbench_coss.tables.latex import to_latex
    from robustbench_coss.tables.terminal import to_rich

    wanted = format or (None if out is None else format_of(out, Format))
    outcomes = examine(results, ablations)
    if wanted is None:
        show(to_rich(layout(outcomes, verbose)))
        return
    if wanted is Format.json:
        text = json.dumps(to_json(outcomes), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    elif wanted is Format.md:
        text = cells.to_markdown("Claims of the CO-SSL paper", layout(outcomes), "claims")
    else:
        text = to_latex("claims", layout(outcomes))
    deliver(text, out, force)
