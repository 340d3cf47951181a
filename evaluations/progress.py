"""Progress of an evaluation: one bar on a terminal, a line now and then anywhere else.

Counts image passes (images × conditions), the unit in which work is planned.
"""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import MofNCompleteColumn, ProgressColumn, Task
from rich.text import Text

from robustbench_coss.machine.terminal import Times, progress_bar, times


class Progress:
    """What the runner reports to; this base keeps silent."""

    def plan(self, images: int) -> None:
        """Announce `images` more image passes to come."""

    def show(self, what: str) -> None:
        """Say what is being worked on."""

    def advance(self, images: int) -> None:
        """Report `images` image passes as done."""


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "")


class ConsoleProgress(Progress):
    """Progress on a console; a context manager.

    Args:
        console: where to write.
        every: seconds between two lines where the console is not a terminal.
    """

    def __init__(self, console: Console, every: float = 30.0) -> None:
        self.console, self.every = console, every
        self.total = self.done = 0
        self.started = self.last = time.monotonic()
        self.bar = progress_bar(console, MofNCompleteColumn(), _Speed(), Times())
        self.task = self.bar.add_task("starting", total=None)
        self.what = "starting"

    def __enter__(self) -> ConsoleProgress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def plan(self, images: int) -> None:
        self.total += images
        self.bar.update(self.task, total=self.total)

    def show(self, what: str) -> None:
        self.what = what
        self.bar.update(self.task, description=what)
        self._line()

    def advance(self, images: int) -> None:
        self.done += images
        self.bar.update(self.task, completed=self.done)
        self._line()

    def _line(self) -> None:
        now = time.monotonic()
        if self.console.is_terminal or now - self.last < self.every:
            return
        self.last = now
        elapsed = now - self.started
        left = (self.total - self.done) * elapsed / self.done if self.done else None
        self.console.print(
            f"{self.what}: {self.done:,} of {self.total:,} images, "
            f"{self.done / elapsed:,.0f} images/s, {times(elapsed, left)}",
            soft_wrap=True,
        )
