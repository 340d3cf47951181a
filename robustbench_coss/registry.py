"""Names to objects, through Python entry points.

The project's own encoders, datasets, methods and suites are declared in `pyproject.toml`
exactly as a third party declares theirs, so there is one way to be found. Looking a name up
imports only that object; listing names imports nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint, distributions
from typing import Any

from robustbench_coss.errors import CossError, kind_and_line, unknown_name

KINDS = ("encoder", "dataset", "method", "suite")
NEEDED = {
    "encoder": (),
    "dataset": ("missing", "open", "default_size"),
    "method": ("Options", "exported", "uses_labels"),
    "suite": (),
}
"""What an object of a kind has to have, whatever else; encoders and suites are made by a call."""


@cache
def _entries(kind: str) -> dict[str, EntryPoint]:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    found: dict[str, EntryPoint] = {}
    # The project's own names win over a third party's: a plug-in adds, it does not replace.
    for entry in sorted(
        _declared(f"robustbench_coss.{kind}s"),
        key=lambda e: (e.dist is None or e.dist.name != "robustbench-coss", e.name),
    ):
        found.setdefault(entry.name, entry)
    return found


def _declared(group: str) -> Iterator[EntryPoint]:
    """Entry points of all packages, without those of a package that declares them wrongly."""
    for package in distributions():
        try:
            yield from package.entry_points.select(group=group)
        except Exception as error:  # whatever a malformed file makes importlib raise
            named = package.metadata["Name"] or "without a name"
            warnings.warn(
                f"the entry points of package {named} cannot be read ({type(error).__name__}: "
                f"{error}); it is left out, repair or uninstall it",
                stacklevel=1,
            )


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
        CossError: the name is unknown (the nearest names are given), or its package fails to
            import or registers something else under it.
    """
    entries = _entries(kind)
    if name not in entries:
        raise unknown_name(kind, name, entries)
    try:
        found = entries[name].load()
    except (Exception, SystemExit) as error:
        raise broken(kind, name, f"does not import: {kind_and_line(error, 300)}") from error
    lacking = [part for part in NEEDED[kind] if not hasattr(found, part)]
    if lacking or not (kind == "dataset" or callable(found)):
        what = f"has no {', '.join(lacking)}" if lacking else f"is a {type(found).__name__}"
        raise broken(kind, name, f"is no {kind}: it {what}")
    return found


def broken(kind: str, name: str, what: str) -> CossError:
    """The error that a plug-in is broken, named by its package."""
    package = origin(kind, name)
    return CossError(
        f"{kind} {name!r} of package {package!r} {what}; repair or uninstall that package"
    )
