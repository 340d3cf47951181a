"""Pages of the documentation, and what stands in them."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

from helpers import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(
    [*ROOT.glob("*.md"), *DOCS.glob("*.md"), ROOT / "results" / "README.md"],
    key=lambda page: page.relative_to(ROOT).as_posix(),
)
# What a study writes about itself is data; these are the pages that this file also reads closely.
MANUAL = [page for page in PAGES if page.parent != ROOT / "results"]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
# What the packages in examples/ register when they are installed, by kind.
EXAMPLES: dict[str, dict[str, str]] = {}
for file in ROOT.glob("examples/*/pyproject.toml"):
    for group, entries in tomllib.loads(file.read_text())["project"]["entry-points"].items():
        kind = group.removeprefix("robustbench_coss.").removesuffix("s")
        EXAMPLES.setdefault(kind, {}).update(entries)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8") if page.exists() else ""


def blocks(page: Path, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(text_of(page)) if found == language]


def rows(text: str) -> Iterator[list[str]]:
    """Cells of every table row of a Markdown text."""
    for line in text.splitlines():
        if line.startswith("| ") and line.endswith(" |"):
            yield [cell.strip() for cell in line[1:-1].split(" | ")]


def block_commands(page: Path) -> list[list[str]]:
    """Every `coss-bench …` of the shell blocks of a page, as its arguments."""
    found = []
    for body in (*blocks(page, "sh"), *blocks(page, "bash"), *blocks(page, "")):
        for line in re.sub(r"\\\n", " ", body).splitlines():
            words = shlex.split(line, comments=True)
            words = words[1:] if words[:1] == ["$"] else words
            if words and Path(words[0]).name == "coss-bench":
                found.append(words[1:])
    return found
