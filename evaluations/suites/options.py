"""Options of suites, levels of conditions and names, checked as they come from a command line."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from robustbench_coss.errors import CossError


def levels(
    option: str, values: float | Sequence[float], below: float = math.inf
) -> tuple[float, ...]:
    """The levels that an option asks for, ascending.

    Args:
        option: what it is called on the command line ("crop.areas").
        values: one number or several.
        below: what each must be smaller than; all must be larger than 0.

    Raises:
        CossError: there are none, one is not a number in the range, or two share a name in
            conditions, which state six digits.
    """
    several: Sequence[object] = values if isinstance(values, (list, tuple)) else [values]
    found = [
        float(value)
        for value in several
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < below
    ]
    if not found or len(found) < len(several):
        limit = "" if math.isinf(below) else f" and below {below:g}"
        raise CossError(
            f"{option} must be numbers above 0{limit}, such as [0.25, 0.5]; got {values!r}"
        )
    if len({f"{value:g}" for value in found}) < len(found):
        raise CossError(f"{option} must differ from each other; got {values!r}")
    return tuple(sorted(found))


def several_names(option: str, given: Any) -> list[str]:
    """Names: one, several separated by commas, or a list.

    Raises:
        CossError: something else.
    """
    parts = given.split(",") if isinstance(given, str) else given
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise CossError(f"{option} must be names, one or several, got {given!r}")
    return [part.strip() for part in parts if part.strip()]


def metric_key(label: str) -> str:
    """A label as part of the name of a metric."""
    return re.sub(r"\W", "_", label)


def refuse_twice(options: str, labels: Sequence[str], key: Callable[[str], str] = str) -> None:
    """Refuse sets of which one is named twice, by `options`, or two share a key: CossError."""
    for i, label in enumerate(labels):
        for other in labels[:i]:
            if label == other:
                raise CossError(f"{options} {label} twice; name each set once")
            if key(label) == key(other):
                raise CossError(
                    f"{options} {other} and {label}, whose metrics have one name; rename one"
                )
