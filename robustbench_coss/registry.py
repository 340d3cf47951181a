"""Names to objects, through Python entry points.

The project's own encoders, datasets, methods and suites are declared in `pyproject.toml`
exactly as a third party declares theirs, so there is one way to be found. Looking a name up
imports only that object; listing names imports nothing.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from robustbench_coss.errors import CossError, unknown_name

KINDS = ("encoder", "dataset", "method", "suite")


@cache
def _entries(kind: str) -> dict[str, EntryPoint]:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    found: dict[str, EntryPoint] = {}
    # The project's own names win over a third party's: a plug-in adds, it does not replace.
    for entry in sorted(
        entry_points(group=f"robustbench_coss.{kind}s"),
        key=lambda e: (e.dist is None or e.dist.name != "robustbench-coss", e.name),
    ):
        found.setdefault(entry.name, entry)
    return found


def names(kind: str) -> list[str]:
    """Registered names of a kind ("encoder", "dataset", "method", "suite"), sorted."""
    return sorted(_entries(kind))


def origin(kind: str, name: str) -> str:
    """The distribution that registered a name."""
    dist = _entries(kind)[name].dist
    return dist.name if dist is not None else "unknown"


def load(kind: str, name: str) -> Any:
    """The object registered under a name.

    Raises:
        CossError: the name is unknown (the nearest names are given) or its package fails to import.
    """
    entries = _entries(kind)
    if name not in entries:
        raise unknown_name(kind, name, entries)
    try:
        return entries[name].load()
    except Exception as error:
        raise CossError(
            f"{kind} {name!r} of package {origin(kind, name)!r} does not import: "
            f"{type(error).__name__}: {error}; repair or uninstall that package"
        ) from error
