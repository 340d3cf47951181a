"""Which measured model a user means: a configuration by its label, or one run of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from robustbench_coss.analysis.configurations import SeedGroup
from robustbench_coss.errors import CossError, did_you_mean
from robustbench_coss.files import slug
from robustbench_coss.records.record import Record

SHORTEST_HASH = 4  # what is shorter is more likely meant as a word


@dataclass(frozen=True)
class Chosen:
    """A model that was named.

    Attributes:
        label: the configuration's, or the run's name.
        measurements: what was measured of it; of a run, with that run's records alone.
    """

    label: str
    measurements: tuple[SeedGroup, ...]


def find_model(measurements: Sequence[SeedGroup], name: str) -> Chosen:
    """The configuration or run that a name stands for.

    Tried in this order: the label of a configuration (case, spaces, "·" and "×" do not matter);
    the folder of a run's records; the path of a file, or its end; a run's name, or a folder of that
    name; the first words of a label or the first characters, at least 4, of a checkpoint's SHA-256.

    Raises:
        CossError: nothing goes by that name (the nearest are given), or several things do.
    """
    labels = sorted({m.label for m in measurements})
    records = [record for m in measurements for record in m.records]
    runs = {record.model["checkpoint_sha256"]: record for record in records}
    wanted, folder = _plain(name), Path(name).name
    steps: tuple[Iterable[str], ...] = (
        (label for label in labels if _plain(label) == wanted),
        (_weights(r) for r in records if _folder(r) == folder),
        (_weights(r) for r in records if lies_at(r, name)),
        (_weights(r) for r in records if r.model["name"] in (name, folder)),
        [
            *(label for label in labels if f"{_plain(label)} ".startswith(f"{wanted} ")),
            *(w for w in runs if len(name) >= SHORTEST_HASH and w.startswith(name.lower())),
        ],
    )
    for step in steps:
        found = sorted(set(step))
        if len(found) > 1:
            several = ", ".join(sorted(_folder(runs[f]) if f in runs else f for f in found))
            raise CossError(f"{name!r} names several models: {several}; write one in full")
        if found:
            return _choose(measurements, runs, found[0])
    raise _unknown(name, [*labels, *(str(record.model["name"]) for record in runs.values())])


def _choose(measurements: Sequence[SeedGroup], runs: dict[str, Record], found: str) -> Chosen:
    """All of a configuration by its label, or of a run by its weights."""
    if found not in runs:
        return Chosen(found, tuple(m for m in measurements if m.label == found))
    narrowed = [
        (m, replace(m, records=tuple(r for r in m.records if _weights(r) == found)))
        for m in measurements
    ]
    mine = tuple(part for _, part in narrowed if part.records)
    name = str(runs[found].model["name"])
    if sum(record.model["name"] == name for record in runs.values()) > 1:
        whole = {m.label for m, part in narrowed if part.records and part.records == m.records}
        name = whole.pop() if len(whole) == 1 else _folder(runs[found])
    return Chosen(name, mine)


def _weights(record: Record) -> str:
    return str(record.model["checkpoint_sha256"])


def _folder(record: Record) -> str:
    """Name of the folder that holds the records of a run."""
    return f"{slug(record.model['name'])}-{_weights(record)[:8]}"


def lies_at(record: Record, name: str) -> bool:
    """Whether a path, or the end of one, is that of a record's file, as far as both are known."""
    there, given = (PurePath(path).parts for path in (record.model.get("file", ""), name))
    length = min(len(there), len(given))
    return length > 0 and there[-length:] == given[-length:]


def _plain(text: str) -> str:
    """Text without what is hard to type."""
    return re.sub(r"[\s·×]+", " ", text.casefold()).strip()


def _unknown(name: str, known: Sequence[str]) -> CossError:
    hint = did_you_mean(name, known, like=_plain) or f"known: {', '.join(sorted(set(known)))}"
    return CossError(f"no model {name!r} was measured; {hint}")
