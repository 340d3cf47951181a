"""What lies beside a record, and whose record lies at its place."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from robustbench_coss.errors import CossError
from robustbench_coss.records.record import Record, read_record


class Names(NamedTuple):
    """What the path of a record is made from."""

    model: str
    checkpoint_sha256: str
    dataset: str
    suite: str


def partial_path(path: Path) -> Path:
    """Where the conditions measured so far lie while a record is unfinished."""
    return path.with_name(f"{path.stem}.partial.json")


def lock_path(path: Path) -> Path:
    """Whose holder alone may measure a record."""
    return path.with_name(f".coss-{path.stem}.lock")


def own_record(path: Path, key: str, names: Names) -> Record | None:
    """The record at a path if it has a key; None if it has another, and has to be measured again.

    Raises:
        CossError: it is of something else, whose names give the same path, and would be lost.
    """
    try:
        found = read_record(path)
    except CossError:  # missing or damaged
        return None
    if found.key == key:
        return found
    model, dataset = found.model, str(found.dataset["name"])
    theirs = Names(str(model["name"]), model["checkpoint_sha256"], dataset, found.suite)
    if theirs != names:
        raise CossError(
            f"{path} holds {found.suite} of {theirs.model} on {dataset}, whose names give the path "
            f"of {names.suite} of {names.model} on {names.dataset}; use another --results for it"
        )
    return None
