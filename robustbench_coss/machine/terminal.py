"""What is shown on a terminal: the one place that text goes through on its way there.

Names come from records, checkpoints and file names of anybody. Here, and nowhere else, control
characters in them are made visible, markup in them stays text, and what the terminal's encoding
does not have is spelled with what it has.
"""

from __future__ import annotations

import codecs
import errno
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.segment import Segment
from rich.text import Text

# C0 and C1 controls but tab and newline, line separators, changes of direction, lone surrogates.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SPELLED = {
    "…": "...", "·": "|", "×": "x", "−": "-", "–": "-", "—": "-", "‖": "||", "±": "+/-",
    "λ": "lambda", "ℓ": "l", "σ": "sigma", "Σ": "sum", "ε": "eps", "Δ": "delta", "∞": "inf",
    "√": "sqrt", "≥": ">=", "≤": "<=", "≈": "~", "°": " deg", "→": "->", "✓": "+", "✗": "x",
    "†": "#", "“": '"', "”": '"', "‘": "'", "’": "'",
}  # fmt: skip


def clean(text: str) -> str:
    """Text with its control characters spelled as Python escapes; tabs and newlines stay."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _spell(error: UnicodeError) -> tuple[str, int]:
    """What an encoding lacks, in ASCII: a handler of encoding errors."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    spelled = "".join(
        _SPELLED.get(c)
        or unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode()
        or "?"
        for c in error.object[error.start : error.end]
    )
    return spelled, error.end


codecs.register_error("spell", _spell)


def printable(text: str) -> str:
    """Text as stdout shows it: no control characters, and spelled what its encoding lacks.

    For what is laid out by its width, which the spelling changes.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return clean(text).encode(encoding, "spell").decode(encoding)


def prepare_streams() -> None:
    """Let stdout and stderr spell what their encoding does not have instead of failing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="spell")


@contextmanager
def ending_without_output() -> Iterator[None]:
    """End with status 1, and one line if that can be said, where stdout or stderr takes no more."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    except OSError as error:
        if error.filename is not None:  # of a file, which is not the screen's business
            raise
        # What is left in a buffer would fail again when Python ends.
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if error.errno != errno.EPIPE:  # a reader that has seen enough, such as `head`
            say(f"error: the output cannot be written: {error.strerror or error}", err=True)
        sys.exit(1)


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a line as it is, but for its control characters."""
    typer.echo(clean(text), err=err, nl=nl)


class Screen(Console):
    """A console that takes text as text: no markup, no emoji codes, no control characters."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(clean(text), style)


def show(renderable: RenderableType) -> None:
    """Print tables: on lines longer than the terminal's rather than with numbers cut off."""
    screen = Screen()
    wide = screen.options.update(max_width=10_000)
    # A table may need a little more than rich finds: padding at its edges.
    least = Measurement.get(screen, wide, renderable).minimum + 4
    screen.width = max(screen.width, least)
    # Of columns that rich made narrower than their words it would cut the last off.
    screen.print(renderable, crop=False)


def times(elapsed: float, left: float | None) -> str:
    """Seconds gone and to come as "1:20 elapsed, 0:40 left"; None is not known."""
    to_come = "" if left is None else f", {_clock(left)} left"
    return f"{_clock(elapsed)} elapsed{to_come}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Times(ProgressColumn):
    """How long a task has taken and will take."""

    def render(self, task: Task) -> Text:
        return Text(times(task.elapsed or 0.0, task.time_remaining).replace(" elapsed", ""))


def progress_bar(console: Console, *columns: ProgressColumn, width: int = 40) -> Progress:
    """A bar behind what it is about, then columns; silent where the console is no terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=width),
        *columns,
        console=console,
        disable=not console.is_terminal,
    )


def warning_line(message: Warning | str, *where: object, **more: object) -> str:
    """For `warnings.formatwarning`: users are not helped by our file names and line numbers."""
    return f"warning: {clean(str(message))}\n"
