"""Names to objects, through Python entry points.

The project's own encoders, datasets, methods and suites are declared in `pyproject.toml`
exactly as a third party declares theirs, so there is one way to be found. Looking a name up
imports only that object; listing names imports nothing, and what our own stand for is read from
their source, since importing them takes seconds.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint, distributions
from importlib.resources import files
from typing import Any

from robustbench_coss.errors import CossError, kind_and_line, unknown_name

OWN = "robustbench-coss"
"""The distribution that this is."""

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
        key=lambda e: (e.dist is None or e.dist.name != OWN, e.name),
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


def description(kind: str, name: str) -> str:
    """What a registered object says of itself: its docstring, or a third party's `does`.

    Raises:
        CossError: a third party's object does not load, see `load`.
    """
    if origin(kind, name) == OWN:
        entry = _entries(kind)[name]
        return _docstrings(entry.module)[entry.attr]
    found = load(kind, name)
    return str(getattr(found, "does", "") or found.__doc__ or "")


@cache
def _docstrings(module: str) -> dict[str, str]:
    """Of one of our modules: docstrings of classes and functions, and those below variables."""
    path = files(__package__).joinpath(*module.split(".")[1:-1], f"{module.split('.')[-1]}.py")
    body = ast.parse(path.read_bytes()).body
    found = {}
    for node, below in zip(body, [*body[1:], ast.Pass()], strict=True):
        match node, below:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name), _:
                found[name] = ast.get_docstring(node) or ""
            case ast.Assign([ast.Name(name)]), ast.Expr(ast.Constant(str(text))):
                found[name] = text
    return found


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
