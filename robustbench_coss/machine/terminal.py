"""Progress on a terminal: the one bar of all commands that take long."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn


def progress_bar(console: Console, *columns: ProgressColumn, width: int = 40) -> Progress:
    """A bar behind what it is about, then columns; silent where the console is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=width),
        *columns,
        console=console,
        disable=not console.is_terminal,
    )
