"""Which measured model a user means: a configuration by its label, or one run of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

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
    the folder of a run's records; a run's name, or a folder of that name; the first words of a
    label or the first characters, at least 4, of a checkpoint's SHA-256.

    Raises:
        CossError: nothing goes by that name (the nearest are given), or several things do.
    """
    labels = sorted({m.label for m in measurements})
    runs = {_folder(record): record for m in measurements for record in m.records}
    wanted, folder = _plain(name), Path(name).name
    steps: tuple[Iterable[str], ...] = (
        (label for label in labels if _plain(label) == wanted),
        (f for f in runs if f == folder),
        (f for f, record in runs.items() if record.model["name"] in (name, folder)),
        [
            *(label for label in labels if f"{_plain(label)} ".startswith(f"{wanted} ")),
            *(f for f, record in runs.items() if _hash_begins(record, name)),
        ],
    )
    for step in steps:
        found = sorted(step)
        if len(found) > 1:
            raise CossError(f"{name!r} names several models: {', '.join(found)}; write one in full")
        if found:
            return _choose(measurements, runs, found[0])
    raise _unknown(name, [*labels, *(str(record.model["name"]) for record in runs.values())])


def _choose(measurements: Sequence[SeedGroup], runs: dict[str, Record], found: str) -> Chosen:
    """All of a configuration by its label, or of a run by its folder."""
    if found not in runs:
        return Chosen(found, tuple(m for m in measurements if m.label == found))
    narrowed = [
        replace(m, records=tuple(r for r in m.records if _folder(r) == found)) for m in measurements
    ]
    return Chosen(str(runs[found].model["name"]), tuple(m for m in narrowed if m.records))


def _folder(record: Record) -> str:
    """Name of the folder that holds the records of a run."""
    return f"{slug(record.model['name'])}-{record.model['checkpoint_sha256'][:8]}"


def _hash_begins(record: Record, name: str) -> bool:
    sha256: str = record.model["checkpoint_sha256"]
    return len(name) >= SHORTEST_HASH and sha256.startswith(name.lower())


def _plain(text: str) -> str:
    """Text without what is hard to type."""
    return re.sub(r"[\s·×]+", " ", text.casefold()).strip()


def _unknown(name: str, known: Sequence[str]) -> CossError:
    hint = did_you_mean(name, known, like=_plain) or f"known: {', '.join(sorted(set(known)))}"
    return CossError(f"no model {name!r} was measured; {hint}")
