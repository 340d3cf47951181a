"""Answers of observers, people among them, trial by trial, as model-vs-human keeps them on disk.

Geirhos et al. 2021 (arXiv 2106.07411), https://github.com/bethgelab/model-vs-human, raw-data/: CSV
files with the columns subj, session, trial, rt, object_response, category, condition, imagename.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from robustbench_coss.errors import CossError
from robustbench_coss.reading import read_text
from robustbench_coss.records.columns import Column
from robustbench_coss.statistics.error_consistency import Pair, kappa_of_images
from robustbench_coss.statistics.intervals import Floats

NEEDED = ("subj", "object_response", "category", "imagename")
PEOPLE = re.compile(r"subject-\d+")  # as the files call them; what else answered is a model
_PREFIX = re.compile(r"\d+_[^_]+_[^_]+_(?=.)")  # trial, experiment and session, of one observer
MOST_BYTES = 64 << 20


@dataclass
class Observer:
    """Who answered: for each condition, which pictures by name were answered rightly."""

    name: str
    right: dict[str, dict[str, bool]] = field(default_factory=dict)


def read_trials(place: Path) -> list[Observer]:
    """The observers of a CSV file, or of all in a folder, however deep.

    A picture that was shown twice under a condition counts once, as first answered; no answer in
    time ("na") is a wrong one.

    Raises:
        CossError: there is no file, or one is no table of trials.
    """
    if not place.exists():
        raise CossError(f"there are no trials at {place}; name a CSV file or a folder of them")
    files = [place] if place.is_file() else sorted(place.rglob("*.csv"))
    found: dict[str, Observer] = {}
    for file in files:
        for row in _rows(file):
            observer = found.setdefault(row["subj"], Observer(row["subj"]))
            shown = observer.right.setdefault(row.get("condition") or "", {})
            shown.setdefault(row["imagename"], row["object_response"] == row["category"])
    if not found:
        raise CossError(f"{place} holds no trials; name a CSV file or a folder of them")
    return list(found.values())


def _rows(file: Path) -> Iterator[dict[str, str]]:
    lines = read_text(file, MOST_BYTES).splitlines()
    table = csv.DictReader(lines, restval="")
    names = {name: (name or "").strip().casefold() for name in table.fieldnames or ()}
    if lacking := [name for name in NEEDED if name not in names.values()]:
        raise CossError(
            f"{file} is no table of trials: it lacks the columns {', '.join(lacking)}; those of "
            "model-vs-human are subj, session, trial, rt, object_response, category, condition, "
            "imagename"
        )
    try:
        for row in table:
            yield {names[k]: str(v).strip() for k, v in row.items() if k in names}
    except csv.Error as error:
        raise CossError(f"{file} is damaged ({error}); copy it again") from error


def found_among(shown: Iterable[str], pictures: Sequence[str]) -> dict[str, int]:
    """Which picture each name of a trial is: the one of that name, or of the name without what
    says trial, experiment and session, or of the longest end of it behind an underscore.

    Args:
        pictures: names of files. Two of one name are none.
    """
    place: dict[str, int] = {}
    twice: set[str] = set()
    for number, name in enumerate(pictures):
        for key in {name, _PREFIX.sub("", name, count=1)}:
            if key in place:
                twice.add(key)
            place[key] = number
    found = {}
    for name in shown:
        ends = [name, _PREFIX.sub("", name, count=1)]
        ends += [name[match.end() :] for match in re.finditer("_", name)]
        known = next((end for end in ends if end in place and end not in twice), None)
        if known is not None:
            found[name] = place[known]
    return found


def kappas(right: Column, observers: Sequence[Observer], pictures: Sequence[str]) -> Floats:
    """[m] numbers whose mean is the error consistency of a model with observers, each alike and of
    each its conditions alike, and whose spread is that of its estimate; m images were seen by any.

    Args:
        right: [n] whether the model is right, for each of `pictures`.

    Returns:
        In the order of the pictures; empty if none was seen by any.
    """
    answers = np.asarray(right, bool)
    parts: list[tuple[list[int], Pair, float]] = []
    for observer in observers:
        seen = {c: found_among(names, pictures) for c, names in observer.right.items()}
        seen = {c: rows for c, rows in seen.items() if rows}
        for condition, rows in seen.items():
            theirs = np.array([observer.right[condition][name] for name in rows])
            index = list(rows.values())
            parts.append((index, (answers[index], theirs), 1 / len(seen)))
    if not parts:
        return np.zeros(0)
    total = sum(weight for _, _, weight in parts)
    return kappa_of_images([(rows, pair, weight / total) for rows, pair, weight in parts])
