"""`coss-bench doctor`: whether everything works here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_coss.cli.eval_options import DataRoot
from robustbench_coss.machine.terminal import Screen, say


def doctor(
    data_root: DataRoot = Path("data"),
    results: Annotated[Path, typer.Option(help="Folder for records.")] = Path("results"),
) -> None:
    """Check the installation, the device, the data sets and the results folder.

    Exits with status 1 if something required is broken; a missing data set is not a failure.

    Examples:

      coss-bench doctor

      coss-bench doctor --data-root /data
    """
    from rich.text import Text

    from robustbench_coss.machine import environment

    screen = Screen()
    findings = environment.doctor(data_root, results)
    for finding in findings:
        colour = "green" if finding.ok else "red" if finding.required else "yellow"
        mark = "✓" if finding.ok else "✗" if finding.required else "–"
        line = Text.assemble((mark, colour), f" {finding.name}: {finding.detail}")
        screen.print(line, soft_wrap=True)
        if finding.remedy:
            say(f"    {finding.remedy}")
    broken = [finding.name for finding in findings if finding.required and not finding.ok]
    if broken:
        say(f"broken: {', '.join(broken)}")
        raise typer.Exit(1)
    say("everything required works")
