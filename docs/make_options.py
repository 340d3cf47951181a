"""Writes options.md: every command with its arguments and options, from the help texts.

`python docs/make_options.py` brings it up to date; a test fails where it is not.
"""

from __future__ import annotations

import inspect
import re
from enum import Enum
from pathlib import Path
from typing import Any

from typer.main import get_command

from robustbench_coss.cli import app

PAGE = Path(__file__).with_name("options.md")
HEAD = """# Options

What `--help` says of each command. [Commands](commands.md) shows them at work.
"""


def page() -> str:
    """The whole page."""
    commands = get_command(app).commands.items()  # type: ignore[attr-defined]
    return "\n".join([HEAD, *(_command(name, command) for name, command in commands)])


def _command(name: str, command: Any) -> str:
    words, _, examples = inspect.cleandoc(command.help or "").partition("Examples:")
    lines = [f"## {name}", "", _plain(words.strip()), ""]
    shown = [line.strip() for line in examples.splitlines() if line.strip()]
    lines += ["```text", *shown, "```", ""] if shown else []
    rows = [_row(p) for p in command.params if "--help" not in p.opts]
    if rows:
        lines += ["| option | takes | default | |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _row(parameter: Any) -> str:
    names = [*parameter.opts, *parameter.secondary_opts]
    shown = (
        " ".join(f"`{n}`" for n in names) if names[0].startswith("-") else f"`{names[0].upper()}`"
    )
    takes = "" if getattr(parameter, "is_flag", False) else _takes(parameter)
    default = parameter.default
    default = default.value if isinstance(default, Enum) else default
    known = not callable(default) and default not in (None, False, True, [], ())
    said = _plain(getattr(parameter, "help", "") or "").replace("|", "\\|")
    return f"| {shown} | {takes} | {f'`{default}`' if known else ''} | {said} |"


def _takes(parameter: Any) -> str:
    said = str(parameter.metavar or parameter.display_type(None))
    return f"`{said.strip('<>')}`".replace("|", "\\|")


def _plain(text: str) -> str:
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text).replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
