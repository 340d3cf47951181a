"""How often claims are declared where nothing differs, and where something does."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers.null_studies import Study


def runs_of(methods: tuple[str, ...], crops: tuple[float, ...], seeds: int) -> dict:  # type: ignore[type-arg]
    return dict.fromkeys(itertools.product(methods, crops), seeds)


PAIR = ("byol", "co-byol")
PAIRS = (*PAIR, "dino", "co-dino")


@pytest.mark.parametrize(
    "study",
    [
        Study(runs_of(PAIR, (0.08, 0.3, 0.6, 1.0), 3), shared=0.9, seeds=0.6),
        Study(runs_of(PAIRS, (0.08, 1.0), 5), shared=0.9, seeds=0.6),
        Study(runs_of(PAIRS, (0.08, 1.0), 3), kinship=0.8),
        Study({("byol", 0.08): 5, ("co-byol", 0.08): 5, ("byol", 1.0): 3, ("co-byol", 1.0): 3}),
    ],
    ids=["crops share seeds", "methods share seeds", "families", "independent"],
)
def test_no_difference_is_declared_one_in_at_most_5_of_100_studies(study: Study) -> None:
    # `python benchmarks/error_rates.py` has more of them.
    studies = 150
    # 2.6 standard deviations of a binomial of 150 at 5 % are 4.6 points.
    assert study.decided(np.random.default_rng(11), studies) <= 0.05 + 0.046


@pytest.mark.parametrize(("gain", "verdict"), [(1.2, "supported"), (-1.2, "not supported")])
def test_large_effects_are_found_whichever_way_they_go(gain: float, verdict: str) -> None:
    study = Study(runs_of(PAIR, (0.08, 1.0), 5))
    generator, right = np.random.default_rng(12), []
    for _ in range(25):
        study.draw(generator, gain)
        found = study.verdicts()
        # The gain is the same at both crops, and four models are too few for a correlation.
        alike = [key for key in found if key not in ("large-crops", "redundancy-robustness")]
        right += [found[key] == verdict for key in alike]
        assert found["redundancy-robustness"] == "undecided"
    assert np.mean(right) > 0.9
