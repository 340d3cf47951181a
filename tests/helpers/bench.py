"""The command line as tests call it: arguments in, what it printed and its status out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What a command left on the terminal and as its status."""

    code: int
    out: str
    err: str


Bench = Callable[..., Outcome]
