"""Which models of a report are compared with which, and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from robustbench_coss.analysis.comparison import compare_chosen, judge
from robustbench_coss.analysis.configurations import SeedGroup, TestSet, bases_of
from robustbench_coss.analysis.numbers import rank_models
from robustbench_coss.analysis.selection import Chosen
from robustbench_coss.errors import CossError
from robustbench_coss.pages.report.choice import Subject
from robustbench_coss.tables.cells import Block, block
from robustbench_coss.tables.comparison import difference_columns, doubt_notes, tests_note

MOST = 7  # comparisons with models that are not of one kind, which the correction makes dearer


@dataclass(frozen=True)
class Pair:
    """Two models set against each other.

    Attributes:
        a, b: their labels.
        relation: what the second is to the first ("its base method").
        table: headline metrics of `comparison.Comparison.table`, judged with all other pairs.
        block: the same to be shown.
        notes: what to know when reading it, the doubts included.
    """

    a: str
    b: str
    relation: str
    table: pd.DataFrame
    block: Block
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Pairs:
    """All comparisons on one test set, and what stood in the way of more."""

    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]


BASE, CO, BEST, OTHER = (
    "its base method",
    "the same with the local-global term",
    "the best on clean images here",
    "another model of this folder",
)


def find_pairs(subject: Subject, test_set: TestSet) -> Pairs:
    """Compare the models of a report on one test set.

    A CO- model stands against its base method, all else being equal. A single model without such
    a partner stands against the other models of the folder, several against the one of them that
    is best on clean images; `MOST` at most, by clean accuracy. Holm's correction is over all
    headline numbers of all pairs.
    """
    mine = subject.on(test_set)
    everything = [m for m in subject.everything if m.test_set == test_set]
    made: list[tuple[str, str, str, pd.DataFrame, list[str]]] = []
    notes: list[str] = []
    for a, b, relation in _who(rank_models(mine), mine, everything):
        label = subject.title if len(subject.configurations) == 1 else a
        one = Chosen(label, tuple(m for m in mine if m.label == a))
        pool = mine if b in {m.label for m in mine} else everything
        other = Chosen(b, tuple(m for m in pool if m.label == b))
        try:
            found = compare_chosen(one, other, subject.everything)
        except CossError as error:
            notes.append(f"{one.label} and {other.label}: {error}.")
            continue
        notes += [f"Not compared: {reason}." for reason in found.refused]
        made.append((one.label, other.label, relation, found.table, list(found.remarks)))
    if not made:
        return Pairs((), tuple(dict.fromkeys(notes)))
    judged = judge(pd.concat([table for *_, table, _ in made], ignore_index=True))
    pairs, start = [], 0
    for a, b, relation, table, remarks in made:
        part = judged.iloc[start : start + len(table)]
        start += len(table)
        said = (*remarks, *doubt_notes(a, b, part))
        pairs.append(Pair(a, b, relation, part, block(difference_columns(part)), said))
    return Pairs(tuple(pairs), tuple(dict.fromkeys([*tests_note(judged), *notes])))


def _who(
    labels: Sequence[str], mine: Sequence[SeedGroup], everything: Sequence[SeedGroup]
) -> list[tuple[str, str, str]]:
    """(label, label, relation) of whom to compare; controls are compared where one is asked for."""
    controls = {m.label for m in everything if m.control}
    if len(labels) > 1:
        labels = [label for label in labels if label not in controls]
    single = len(labels) == 1
    bases = bases_of(everything if single else mine)
    if not single:
        related = [(co, bases[co], BASE) for co in labels if co in bases]
        return related or [(label, labels[0], BEST) for label in labels[1 : MOST + 1]]
    (label,) = labels
    if label in bases:
        return [(label, bases[label], BASE)]
    forms = sorted(co for co, base in bases.items() if base == label)
    if forms:
        return [(label, co, CO) for co in forms]
    others = [o for o in rank_models(everything) if o != label and o not in controls]
    return [(label, other, OTHER) for other in others[:MOST]]
