"""The claims of the paper, each as statements about outcomes that the suites record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from robustbench_coss.analysis.numbers import fact, values_of
from robustbench_coss.records.columns import Column
from robustbench_coss.records.record import Metric, Record
from robustbench_coss.statistics.ranks import FEWEST

SMALL = 2.0  # largest budget of a small attack, in 1/255


@dataclass(frozen=True)
class Measure:
    """The average of an outcome that a claim is about.

    Attributes:
        suite, column: whose outcome it is.
        groups: group of conditions -> name of the average over it; the first that there is counts.
        less: a second column that is subtracted image by image; "" for none.
        largest: level up to which conditions of the group are averaged.
        first: take the condition of the lowest level alone.
        percent: whether it is a share.
    """

    suite: str
    groups: Mapping[str, str]
    column: str = "correct"
    less: str = ""
    largest: float = math.inf
    first: bool = False
    percent: bool = True

    def find(self, record: Record) -> Metric | None:
        """The average over this record's conditions; None if it has none of them."""
        for group, label in self.groups.items():
            cells = [
                cell
                for cell in record.cells
                if cell.group == group
                and cell.level <= self.largest
                and {self.column, self.less} - {""} <= cell.outcomes.keys()
            ]
            if cells and self.first:
                cells = [min(cells, key=lambda cell: cell.level)]
            if cells:
                names = tuple(cell.condition for cell in cells)
                name = group or "reference"
                return Metric(name, label, self.column, names, percent=self.percent)
        return None

    def values(self, record: Record, metric: Metric) -> Column:
        """[n] of each image, of a metric that `find` gave."""
        values = values_of(record, metric)
        if not self.less:
            return values
        return np.asarray(values - values_of(record, replace(metric, column=self.less)))

    @property
    def label(self) -> str:
        """What it is called where records need not agree on conditions."""
        return next(iter(self.groups.values()))

    def number(self, record: Record) -> float | None:
        """Its mean in a record; None if that has none of its conditions."""
        metric = self.find(record)
        return None if metric is None else float(self.values(record, metric).mean())


@dataclass(frozen=True)
class Fact:
    """A number of a model that a suite states beside its outcomes."""

    suite: str
    name: str
    label: str

    def number(self, record: Record) -> float | None:
        """What a record states; None if it does not."""
        return fact(record, self.name)


CLEAN = Measure("clean", {"": "Clean top-1"})
NOISE = Measure("corruption", {"noise": "Noise corruption top-1"})
OCCLUSION = Measure("occlusion", {"random-zero": "Internal occlusion top-1"})
INTERNAL_NOISE = Measure("occlusion", {"noise": "Internal noise top-1"})
ATTACKS = Measure(
    "adversarial",
    {
        "worst-linf": f"Worst-case ℓ∞ top-1, up to {SMALL:g}/255",
        "pgd-linf": f"PGD-ℓ∞ top-1, up to {SMALL:g}/255",
    },
    largest=SMALL,
)
# After a ReLU cosines are positive whatever the network does: what locals of one image have in
# common is how much more alike they are than those of different images.
REDUNDANCY = Measure(
    "redundancy",
    {"similarity": "Local cosine, within less across images"},
    column="within",
    less="across",
    percent=False,
)
RANKME = Fact("redundancy", "rankme", "RankMe")
RANK_BETWEEN = Fact("redundancy", "rank_between", "Rank between images")
SINGLE = Measure("redundancy", {"pooled": "Top-1 from one local"}, first=True)


class Kind(StrEnum):
    """What a claim sets against each other."""

    pairs = "pairs"
    """A CO- model and its base method."""
    crops = "crops"
    """The two again, in what they lose from small to large minimum training crops."""
    models = "models"
    """A number of models and their robustness, over models."""


def family_of(model: dict[str, Any], label: str) -> tuple[str, bool]:
    """The base method that a model is a variant of (of one without a method, itself), and whether
    it is the CO- form."""
    method = str(model.get("method") or label)
    return method.removeprefix("co-"), method.startswith("co-")


@dataclass(frozen=True)
class Claim:
    """A claim of the paper as it is tested here.

    Attributes:
        key: stable name.
        title: short name.
        statement: what is tested, as a sentence.
        kind: what is set against each other.
        measures: outcomes that it is tested on; all have to agree.
        produce: how to get the records.
        by: over models, the numbers that robustness is set against.
        asks: whether it is no claim but a question: rows are shown where there are any, and no
            verdict is given.
    """

    key: str
    title: str
    statement: str
    kind: Kind
    measures: tuple[Measure, ...]
    produce: str
    by: tuple[Measure | Fact, ...] = (REDUNDANCY,)
    asks: bool = False


def _eval(suite: str) -> str:
    return (
        f"run `coss-bench eval RUN --suite {suite}` on several seeds of a CO- model and of its base"
    )


CLAIMS = (
    Claim(
        "clean",
        "Clean accuracy",
        "CO- is better than its base method on clean images.",
        Kind.pairs,
        (CLEAN,),
        _eval("clean"),
    ),
    Claim(
        "noise-corruption",
        "Noise corruption",
        "CO- is better under noise corruption.",
        Kind.pairs,
        (NOISE,),
        _eval("corruption"),
    ),
    Claim(
        "internal-corruption",
        "Internal corruption",
        "CO- is better with local representations occluded, and with noise on them.",
        Kind.pairs,
        (OCCLUSION, INTERNAL_NOISE),
        _eval("occlusion"),
    ),
    Claim(
        "small-attacks",
        "Small attacks",
        f"CO- is better under adversarial attacks of at most {SMALL:g}/255.",
        Kind.pairs,
        (ATTACKS,),
        _eval("adversarial"),
    ),
    Claim(
        "large-crops",
        "Large training crops",
        "CO- loses less clean accuracy from small to large minimum training crops.",
        Kind.crops,
        (CLEAN,),
        "run `coss-bench sweep crop`, then `coss-bench eval runs/crop/* --suite clean`",
    ),
    Claim(
        "redundant-locals",
        "Redundant locals",
        "Local representations of an image are more alike in CO-, beyond those of different "
        "images, and a single one is better.",
        Kind.pairs,
        (REDUNDANCY, SINGLE),
        _eval("redundancy"),
    ),
    Claim(
        "redundancy-robustness",
        "Redundancy with robustness",
        "The more alike local representations are, the less is lost to noise and small attacks.",
        Kind.models,
        (NOISE, ATTACKS),
        "run `coss-bench eval RUN --suite redundancy,corruption,adversarial` on seeds of "
        f"{FEWEST} or more configurations",
    ),
)

QUESTIONS = (
    Claim(
        "rank-robustness",
        "Rank with robustness",
        "Does the rank of representations go with what is kept under noise and small attacks?",
        Kind.models,
        (NOISE, ATTACKS),
        "run `coss-bench eval RUN --suite redundancy,corruption,adversarial`",
        by=(RANKME, RANK_BETWEEN),
        asks=True,
    ),
)
"""What is asked beside them, without a verdict."""
