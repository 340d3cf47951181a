"""Simulated studies of claims: what runs of one seed share, images, and both together vary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from helpers import simulate
from robustbench_coss.analysis.configurations import SeedGroup, TestSet
from robustbench_coss.analysis.labels import Configuration
from robustbench_coss.claims.definitions import CLAIMS
from robustbench_coss.claims.questions import Question, find_questions
from robustbench_coss.claims.verdicts import judge, verdict_of
from robustbench_coss.records.record import Cell, Record

CONDITIONS = {  # suite -> (condition, group, level)
    "clean": [("clean", "", 0.0)],
    "corruption": [("clean", "", 0.0), ("gaussian_noise@1", "noise", 1.0)],
    "occlusion": [("random-zero@0.5", "random-zero", 0.5), ("noise@1", "noise", 1.0)],
    "adversarial": [("clean", "", 0.0), ("pgd-linf@1/255", "pgd-linf", 1.0)],
    "redundancy": [("k@1", "pooled", 0.06), ("similarity", "similarity", 1.0)],
}


class Study:
    """Measurements whose outcomes are drawn anew.

    Args:
        runs: (method, smallest crop) -> number of seeds, from 0.
        shared: share of the variance between seeds that CO- runs of one seed have in common, and
            base runs of one seed likewise.
        kinship: share of what configurations differ in that variants of a method have in common.
        seeds: standard deviation between seeds, in those of images.
    """

    def __init__(
        self,
        runs: dict[tuple[str, float], int],
        shared: float = 0.0,
        kinship: float = 0.0,
        seeds: float = 0.15,
        images: int = 100,
    ) -> None:
        self.shared, self.kinship, self.images = shared, kinship, images
        self.seeds = seeds
        self.records: list[tuple[str, Record]] = []  # by configuration
        measurements = []
        for suite, conditions in CONDITIONS.items():
            for (method, crop), count in runs.items():
                name = f"{method} {crop}"
                records = [
                    _record(suite, conditions, method, crop, s, images) for s in range(count)
                ]
                self.records += [(name, record) for record in records]
                test_set, label = TestSet("parts", "parts", 10), Configuration(name, name)
                measurements.append(SeedGroup(test_set, label, suite, "", "", (*records,)))
        self.questions: list[tuple[str, Question]] = []
        for claim in CLAIMS:
            found = find_questions(claim, measurements)
            # The pairs below means have a family of their own.
            self.questions += [(claim.key, q) for q in found.questions if q.decides]

    def draw(self, generator: np.random.Generator, gain: float = 0.0) -> None:
        """New outcomes; CO- models are better by `gain` standard deviations of images."""
        n, normal = self.images, generator.standard_normal
        difficulty, common, methods = normal(n), {}, {}  # type: ignore[var-annotated]
        own: dict[tuple[str, str], float] = {}
        for name, record in self.records:
            method, seed = str(record.model["method"]), record.model["training"]["seed"]
            family = method.removeprefix("co-")
            better = gain if method.startswith("co-") else 0.0
            for cell in record.cells:
                key = (record.suite, cell.condition)
                of_seed = common.setdefault((*key, method.startswith("co-"), seed), normal())
                of_family = methods.setdefault((*key, family), normal())
                of_own = own.setdefault((*key, name), normal())
                seeds = np.sqrt(self.shared) * of_seed + np.sqrt(1 - self.shared) * normal()
                spread = np.sqrt(self.kinship) * of_family + np.sqrt(1 - self.kinship) * of_own
                latent: NDArray[np.float64] = (
                    0.8 + better + self.seeds * seeds - difficulty + 0.7 * normal(n)
                ) + (0.3 * spread if self.kinship else 0.0)
                cell.outcomes["correct"] = latent > (0.5 if cell.group else 0.0)
                if cell.condition == "similarity":
                    cell.outcomes["within"] = 0.5 + 0.1 * latent
                    cell.outcomes["across"] = 0.3 + 0.1 * normal(n)

    def verdicts(self) -> dict[str, str]:
        rows = judge([q for _, q in self.questions])
        keyed = list(zip((key for key, _ in self.questions), rows, strict=True))
        return {c.key: verdict_of([r for key, r in keyed if key == c.key], True) for c in CLAIMS}

    def decided(self, generator: np.random.Generator, studies: int) -> float:
        """Share of studies without a difference in which any claim is decided."""
        count = 0
        for _ in range(studies):
            self.draw(generator)
            count += bool({"supported", "not supported"} & set(self.verdicts().values()))
        return count / studies


def _record(
    suite: str,
    conditions: Sequence[tuple[str, str, float]],
    method: str,
    crop: float,
    seed: int,
    images: int,
) -> Record:
    blank = np.ones(images)
    cells = [Cell(c, g, level, {"correct": blank}) for c, g, level in conditions]
    if suite == "redundancy":
        cells[1].outcomes |= {"within": blank, "across": blank}
    training = {"views": {"min_crop": crop}, "options": {}}
    name = f"{method} {crop} {seed}"
    return simulate.record(
        cells, [], suite=suite, method=method, seed=seed, name=name, training=training
    )
