"""The tests of a claim that the records allow, and why there are not more of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from robustbench_coss.analysis.configurations import (
    SeedGroup,
    along,
    by_protocol,
    setting,
    without_local_term,
)
from robustbench_coss.analysis.controls import NOT_TRAINED, standing
from robustbench_coss.analysis.pairing import mismatch, seeds_of
from robustbench_coss.claims.definitions import (
    REDUNDANCY,
    Claim,
    Fact,
    Kind,
    Measure,
    family_of,
)
from robustbench_coss.claims.published import as_published
from robustbench_coss.records.record import Metric, Record
from robustbench_coss.statistics.contrasts import contrast, over_seeds
from robustbench_coss.statistics.paired_tests import Difference
from robustbench_coss.statistics.ranks import FEWEST, rank_correlation

MIN_CROP = "training.views.min_crop"


@dataclass(frozen=True)
class Source:
    """A measurement that a test rests on, and its part: "co", "base" or "model"."""

    role: str
    measurement: SeedGroup


@dataclass(frozen=True)
class Question:
    """One test.

    Attributes:
        kind: "pair", "pooled" (the mean over all pairs) or "models".
        measure: name of what is measured.
        compared: of which models.
        protocol: letters of the suites' protocols, "" where there is one.
        unit: "points", "cosine" or "rho".
        sources: what it rests on.
        answer: does the test; a value above 0 speaks for the claim.
        decides: whether the claim's verdict follows from it; else it is one of the pairs of a mean,
            or of a model that has not learnt.
        untrained: which of the models does not beat the controls, in words; "" if all do.
        asks: whether it is no claim's, so that it has no verdict.
    """

    kind: str
    measure: str
    compared: str
    protocol: str
    unit: str
    sources: tuple[Source, ...]
    answer: Callable[[], Difference]
    decides: bool = True
    untrained: str = ""
    asks: bool = False

    @property
    def seeded(self) -> bool:
        """Whether the answer covers the training seed, and so says something about methods."""
        runs = [seeds_of(s.measurement.records) for s in self.sources]
        return self.kind == "models" or over_seeds(runs)


@dataclass
class Found:
    """The questions of a claim on a test set, and what stood in the way of more.

    Attributes:
        complete: whether there is a question that decides about every measure of the claim.
    """

    questions: list[Question] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    complete: bool = True


def find_questions(claim: Claim, here: Sequence[SeedGroup], ablations: bool = False) -> Found:
    """All tests of a claim that the measurements on one test set allow.

    Where there are several pairs under one protocol, their mean decides. A pair of which a model
    does not beat the controls (see `controls.standing`) decides nothing and is in no mean; nor is
    one with fewer than two seeds in common where there are others.

    Args:
        ablations: count all models; else those that `published.as_published` keeps.
    """
    found = Found()
    unlearnt = _unlearnt(here)
    here = [m for m in here if not m.control]
    measured = {m.suite for m in here}
    if not ablations:
        here, found.lacking = as_published(here)
    for measure in claim.measures:
        before = len(found.questions)
        needed = {measure.suite}
        if claim.kind is Kind.models:
            needed |= {by.suite for by in claim.by}
        found.lacking += [f"no records of suite {suite}" for suite in sorted(needed - measured)]
        for group in by_protocol(here, measure.suite):
            protocol = group[0].protocol
            if claim.kind is Kind.models:
                if left_out := sorted({m.label for m in group} & unlearnt.keys()):
                    found.lacking.append(f"{NOT_TRAINED}, left out: {', '.join(left_out)}")
                learnt_here = [m for m in group if m.label not in unlearnt]
                for by in claim.by:
                    for redundant in by_protocol(here, by.suite):
                        letters = "".join(dict.fromkeys((protocol, redundant[0].protocol)))
                        asked = _correlation(found, measure, letters, learnt_here, redundant, by)
                        found.questions += [
                            replace(q, asks=claim.asks, decides=not claim.asks) for q in asked
                        ]
                continue
            find = _crops if claim.kind is Kind.crops else _pairs
            pairs = list(find(found, measure, group))
            reasons = [
                "; ".join(dict.fromkeys(filter(None, (unlearnt.get(t.label) for t in s.terms))))
                for s in pairs
            ]
            learnt = [s for s, why in zip(pairs, reasons, strict=True) if not why]
            counted = [s for s in learnt if s.seeded] or learnt
            pooled = _pooled(found, counted)
            found.questions += [
                _ask(measure, protocol, s, s in counted and not pooled, why)
                for s, why in zip(pairs, reasons, strict=True)
            ]
            found.questions += [_ask(measure, protocol, s, True) for s in pooled]
        found.complete &= any(q.decides for q in found.questions[before:])
    found.lacking = list(dict.fromkeys(found.lacking))
    return found


def _unlearnt(here: Sequence[SeedGroup]) -> dict[str, str]:
    """Configuration -> why it decides nothing, for those that do not beat the controls."""
    found = {}
    for label in dict.fromkeys(m.label for m in here):
        if reason := standing([m for m in here if m.label == label], here).reason:
            found[label] = reason
    return found


# ---- CO- against base ----


@dataclass(frozen=True)
class Term:
    """One configuration in a sum, with its weight."""

    weight: float
    source: Source
    measure: Measure
    metric: Metric

    @property
    def label(self) -> str:
        return self.source.measurement.label

    @property
    def records(self) -> tuple[Record, ...]:
        return self.source.measurement.records


@dataclass(frozen=True)
class WeightedSum:
    """What is tested against 0: a weighted sum of the means of configurations."""

    kind: str
    measure: str
    compared: str
    terms: tuple[Term, ...]

    @property
    def seeded(self) -> bool:
        """Whether its configurations have the seeds that a mean over seeds needs."""
        return over_seeds([seeds_of(t.records) for t in self.terms])


def _pairs(found: Found, measure: Measure, group: Sequence[SeedGroup]) -> Iterator[WeightedSum]:
    """CO- minus base, for every CO- model whose base method was measured alike."""
    for co in group:
        if not str(co.model.get("method") or "").startswith("co-"):
            continue
        base = without_local_term(co, group)
        if base is None:
            found.lacking.append(
                f"{co.label}, {co.suite}: no records of its base method, all else equal"
            )
        elif terms := _terms(found, measure, [(1, "co", co), (-1, "base", base)]):
            yield WeightedSum("pair", terms[0].metric.label, co.label, terms)


def _crops(found: Found, measure: Measure, group: Sequence[SeedGroup]) -> Iterator[WeightedSum]:
    """CO- minus base at the largest minimum crop, less the same at the smallest."""
    some = False
    for shared, family in along(group, MIN_CROP).items():
        both = [
            (m, base)
            for m in family
            if isinstance(setting(m, MIN_CROP), (int, float))
            and (base := without_local_term(m, group))
        ]
        both.sort(key=lambda pair: float(setting(pair[0], MIN_CROP)))
        if len(both) < 2:
            continue
        some = True
        (small, small_base), (large, large_base) = both[0], both[-1]
        sides = [
            (1, "co", large),
            (-1, "base", large_base),
            (-1, "co", small),
            (1, "base", small_base),
        ]
        if terms := _terms(found, measure, sides):
            sizes = " to ".join(f"{float(setting(m, MIN_CROP)):g}" for m in (small, large))
            name = terms[0].metric.label
            yield WeightedSum(
                "pair",
                f"{name}, large less small crops",
                f"{shared.label}, minimum crop {sizes}",
                terms,
            )
    if not some:
        found.lacking.append("no CO- model and its base method at two minimum training crops")


def _terms(
    found: Found, measure: Measure, sides: Sequence[tuple[float, str, SeedGroup]]
) -> tuple[Term, ...]:
    """The sides of a sum if they can be set against each other, else none, and why."""
    metrics = [measure.find(m.records[0]) for _, _, m in sides]
    first, label = metrics[0], sides[0][2].label
    if first is None or any(m is None or m.conditions != first.conditions for m in metrics):
        wanted = " or ".join(measure.groups.values())
        found.lacking.append(f"{label}: {wanted} not measured for it and its base method alike")
        return ()
    if reason := mismatch([r for _, _, m in sides for r in m.records]):
        found.lacking.append(f"{label}, {first.label}: {reason}")
        return ()
    return tuple(Term(weight, Source(role, m), measure, first) for weight, role, m in sides)


def _pooled(found: Found, sums: Sequence[WeightedSum]) -> list[WeightedSum]:
    """The mean over several pairs, each weighing the same; a base that some share occurs once."""
    if len(sums) < 2:
        return []
    if reason := mismatch([r for s in sums for t in s.terms for r in t.records]):
        found.lacking.append(f"no mean over pairs: {reason}")
        return []
    merged: dict[str, Term] = {}
    for term in (term for s in sums for term in s.terms):
        before = merged[term.label].weight if term.label in merged else 0.0
        merged[term.label] = replace(term, weight=before + term.weight / len(sums))
    compared = f"mean of {len(sums)} pairs"
    return [WeightedSum("pooled", sums[0].measure, compared, tuple(merged.values()))]


def _ask(
    measure: Measure, protocol: str, s: WeightedSum, decides: bool, untrained: str = ""
) -> Question:
    return Question(
        s.kind,
        s.measure,
        s.compared,
        protocol,
        "points" if measure.percent else "cosine",
        tuple(term.source for term in s.terms),
        partial(answer_sum, s.terms),
        decides,
        untrained,
    )


def answer_sum(terms: Sequence[Term]) -> Difference:
    """Value, interval and p of a weighted sum of configurations (`contrasts.contrast`)."""
    return contrast(
        [[t.measure.values(r, t.metric) for r in t.records] for t in terms],
        [t.weight for t in terms],
        [seeds_of(t.records) for t in terms],
        share=terms[0].metric.percent,
    )


# ---- over models ----


def _correlation(
    found: Found,
    measure: Measure,
    protocol: str,
    robust: Sequence[SeedGroup],
    redundant: Sequence[SeedGroup],
    by: Measure | Fact,
) -> Iterator[Question]:
    """A number and what is kept of clean accuracy, over all models measured in both."""
    by_label = {m.label: m for m in redundant if all(by.number(r) is not None for r in m.records)}
    both = [
        (by_label[m.label], m)
        for m in robust
        if m.label in by_label and kept_share(measure, m) is not None
    ]
    metrics = [metric for _, m in both if (metric := measure.find(m.records[0]))]
    name = " or ".join({m.label: None for m in metrics} or measure.groups.values())
    if len(both) < FEWEST:
        found.lacking.append(
            f"{name}: {len(both)} configurations were measured in it and in redundancy, a rank "
            f"correlation needs {FEWEST}"
        )
    elif len({m.conditions for m in metrics}) > 1:
        found.lacking.append(f"{name}: not averaged over the same conditions for all models")
    else:
        yield Question(
            "models",
            f"Rank correlation of {by.label} with {name} / clean",
            f"{len(both)} configurations",
            protocol,
            "rho",
            tuple(Source("model", m) for pair in both for m in pair),
            partial(answer_correlation, measure, both, by),
        )


def kept_share(measure: Measure, m: SeedGroup) -> float | None:
    """Top-1 under a disturbance as a share of top-1 on the same images undisturbed, mean over
    seeds; None if either was not measured or nothing is right undisturbed."""
    shares = []
    for record in m.records:
        metric = measure.find(record)
        clean = next((c.outcomes.get("correct") for c in record.cells if not c.group), None)
        if metric is None or clean is None or not clean.any():
            return None
        shares.append(float(record.per_sample(metric).mean()) / float(clean.mean()))
    return float(np.mean(shares))


def answer_correlation(
    measure: Measure,
    both: Sequence[tuple[SeedGroup, SeedGroup]],
    by: Measure | Fact = REDUNDANCY,
) -> Difference:
    """Rank correlation over configurations, each with the mean of its seeds, in families of the
    methods that they are variants of."""
    numbers = [
        np.mean([value for r in m.records if (value := by.number(r)) is not None]) for m, _ in both
    ]
    kept = [kept_share(measure, m) for _, m in both]
    return rank_correlation(
        numbers,
        [np.nan if share is None else share for share in kept],
        *zip(*(family_of(m.model, m.label) for m, _ in both), strict=True),
    )
