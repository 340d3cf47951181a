"""`coss-bench claims`: which claims of the CO-SSL paper the records bear out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from robustbench_coss.cli.leaderboard import Force, OutFile, Results, deliver_tables, format_of


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
    from robustbench_coss.tables.claims import layout, to_json

    wanted = format or (None if out is None else format_of(out, Format))
    outcomes = examine(results, ablations)

    def data() -> str:
        found = to_json(outcomes)
        return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    sections = layout(outcomes, verbose or wanted is not None)
    heading = "Claims of the CO-SSL paper"
    deliver_tables(sections, heading, "claims", data, wanted, out, force)
