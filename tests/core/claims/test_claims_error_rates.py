"""How often claims are declared where nothing differs, and where something does."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import simulate
from numpy.typing import NDArray

from robustbench_coss.analysis.configurations import SeedGroup, TestSet
from robustbench_coss.analysis.labels import Configuration
from robustbench_coss.claims.definitions import CLAIMS
from robustbench_coss.claims.questions import Question, find_questions
from robustbench_coss.claims.verdicts import judge, verdict_of
from robustbench_coss.records.record import Cell, Record

RUNS = {("byol", 0.08): 5, ("co-byol", 0.08): 5, ("byol", 1.0): 3, ("co-byol", 1.0): 3}
IMAGES = 100
CONDITIONS = {  # suite -> (condition, group, level)
    "clean": [("clean", "", 0.0)],
    "corruption": [("clean", "", 0.0), ("gaussian_noise@1", "noise", 1.0)],
    "occlusion": [("random-zero@0.5", "random-zero", 0.5), ("noise@1", "noise", 1.0)],
    "adversarial": [("clean", "", 0.0), ("pgd-linf@1/255", "pgd-linf", 1.0)],
    "redundancy": [("k@1", "pooled", 0.06), ("similarity", "similarity", 1.0)],
}


class Study:
    """Measurements whose outcomes are drawn anew: seeds, images and both together vary."""

    def __init__(self) -> None:
        blank = np.ones(IMAGES)
        self.records: list[tuple[str, str, Record]] = []
        measurements = []
        for suite, conditions in CONDITIONS.items():
            for (method, crop), seeds in RUNS.items():
                configuration = f"{method} {crop}"
                records = []
                for seed in range(seeds):
                    training = {"views": {"min_crop": crop}, "options": {}}
                    cells = [Cell(c, g, level, {"correct": blank}) for c, g, level in conditions]
                    record = simulate.record(
                        cells,
                        [],
                        suite=suite,
                        method=method,
                        seed=seed,
                        name=f"{configuration} {seed}",
                        training=training,
                    )
                    records.append(record)
                    self.records.append((method, suite, record))
                measurements.append(
                    SeedGroup(
                        TestSet("parts", "parts", 10),
                        Configuration(configuration, configuration),
                        suite,
                        "",
                        "",
                        (*records,),
                    )
                )
        self.questions: list[tuple[str, Question]] = []
        for record in (r for _, suite, r in self.records if suite == "redundancy"):
            record.cells[1].outcomes["within"] = blank
        for claim in CLAIMS:
            found = find_questions(claim, measurements)
            assert not found.lacking
            # The pairs below means have a family of their own.
            self.questions += [(claim.key, q) for q in found.questions if q.decides]

    def draw(self, generator: np.random.Generator, gain: float) -> None:
        """New outcomes; CO- models are better by `gain` standard deviations of images."""
        difficulty = generator.standard_normal(IMAGES)
        for method, _, record in self.records:
            better = gain if method.startswith("co-") else 0.0
            for cell in record.cells:
                seed = 0.15 * generator.standard_normal()  # about 4 points of accuracy
                own = 0.7 * generator.standard_normal(IMAGES)
                latent: NDArray[np.float64] = 0.8 + better + seed - difficulty + own
                cell.outcomes["correct"] = latent > (0.5 if cell.group else 0.0)
                if cell.condition == "similarity":
                    cell.outcomes["within"] = 0.5 + 0.1 * latent

    def verdicts(self) -> dict[str, str]:
        rows = judge([q for _, q in self.questions])
        keyed = list(zip((key for key, _ in self.questions), rows, strict=True))
        return {c.key: verdict_of([r for key, r in keyed if key == c.key], True) for c in CLAIMS}


@pytest.fixture(scope="module")
def study() -> Study:
    return Study()


def test_no_difference_is_declared_one_in_at_most_5_of_100_studies(study: Study) -> None:
    generator, studies = np.random.default_rng(11), 1000
    supported = decided = 0
    for _ in range(studies):
        study.draw(generator, 0.0)
        verdicts = set(study.verdicts().values())
        supported += "supported" in verdicts
        decided += bool(verdicts & {"supported", "not supported"})
    assert supported / studies <= 0.05
    assert decided / studies <= 0.05


@pytest.mark.parametrize(("gain", "verdict"), [(1.2, "supported"), (-1.2, "not supported")])
def test_large_effects_are_found_whichever_way_they_go(
    study: Study, gain: float, verdict: str
) -> None:
    generator, right = np.random.default_rng(12), []
    for _ in range(25):
        study.draw(generator, gain)
        found = study.verdicts()
        # The gain is the same at both crops, and four models are too few for a correlation.
        alike = [key for key in found if key not in ("large-crops", "redundancy-robustness")]
        right += [found[key] == verdict for key in alike]
        assert found["redundancy-robustness"] == "undecided"
    assert np.mean(right) > 0.9
