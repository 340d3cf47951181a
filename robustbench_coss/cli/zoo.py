"""`coss-bench zoo`: published checkpoints that can be measured by name."""

from __future__ import annotations

from typing import Annotated

import typer

from robustbench_coss.machine.terminal import say, show


def zoo(
    name: Annotated[
        str | None, typer.Argument(help="Tell all of one checkpoint; default: list all.")
    ] = None,
) -> None:
    """List published self-supervised checkpoints, which `coss-bench eval zoo:NAME` measures.

    Nobody's weights are part of this package: they are downloaded from their publisher, once, and
    held to the digest that is published with them. What a publisher does not state stays empty.

    Examples:

      coss-bench zoo

      coss-bench zoo dino-vits16
    """
    from robustbench_coss.tables.cells import Section, TableCell, block
    from robustbench_coss.tables.terminal import to_rich
    from robustbench_coss.zoo.entries import FILE, entries, entry_of

    if name is not None:
        entry = entry_of(name)
        kind, digest = entry.digest
        lines = {
            "name": entry.name,
            "method": entry.method,
            "architecture": entry.arch,
            "parameters": entry.parameters,
            "paper": f"https://arxiv.org/abs/{entry.paper}",
            "licence": entry.licence,
            "source": entry.source,
            kind or "digest": f"{digest} (as far as published)" if digest else "",
            "checked": entry.checked,
            "measure": entry.command,
        }
        for key, value in lines.items():
            say(f"{key}: {value or 'not stated'}")
        return
    headings = ("Name", "Method", "Architecture", "Parameters", "Licence", "arXiv", "Digest")
    rows = [
        (e.name, e.method, e.arch, e.parameters, e.licence, e.paper, e.digest[0])
        for e in entries(FILE).values()
    ]
    columns = [
        (heading, [TableCell(row[k] or "—") for row in rows]) for k, heading in enumerate(headings)
    ]
    show(to_rich([Section("Published checkpoints", "", (block(columns),), ())]))
    say("next: coss-bench zoo NAME, or coss-bench eval zoo:NAME --dataset imagenet")
