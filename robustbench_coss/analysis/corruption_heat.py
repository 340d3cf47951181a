"""Errors of models under each corruption: what a heat map shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robustbench_coss.analysis.configurations import SeedGroup, by_protocol
from robustbench_coss.analysis.corruption_error import (
    ALEXNET,
    ALEXNET_BASELINE,
    Baseline,
    baseline_of,
    corruption_errors,
)
from robustbench_coss.errors import CossError


@dataclass(frozen=True)
class Heat:
    """Errors of all models that were measured under corruptions in one way.

    Attributes:
        suite, protocol: what was measured.
        kinds: corruptions, in the order of the suite.
        families: family of each.
        models: labels, best first.
        errors: [models, kinds] top-1 errors in [0, 1], means over severities and seeds; NaN where a
            corruption was not measured.
        standard: [models] their mean over the 15 standard corruptions; NaN if one is missing.
        baseline: what mCE is divided by; "" if it is not given.
        mce: [models] mCE, 1 for the baseline; NaN where there is none.
        seeds, images: of each model, runs and test images.
    """

    suite: str
    protocol: str
    kinds: tuple[str, ...]
    families: tuple[str, ...]
    models: tuple[str, ...]
    errors: np.ndarray
    standard: np.ndarray
    baseline: str
    mce: np.ndarray
    seeds: tuple[int, ...]
    images: tuple[int, ...]


def heats(measurements: Sequence[SeedGroup]) -> list[Heat]:
    """A heat map per protocol of the suite `corruption` with corruptions.

    mCE is divided by AlexNet's errors where the images are those of ImageNet-C, else by those of
    the control on raw pixels, if there is one.

    Args:
        measurements: on one test set, in the order of the rows.
    """
    found = map(_heat, by_protocol(measurements, "corruption"))
    return [heat for heat in found if heat.kinds]


def _heat(measurements: Sequence[SeedGroup]) -> Heat:
    families = {
        cell.kind: cell.group for m in measurements for cell in m.records[0].cells if cell.group
    }
    errors = np.array([[_error(m, kind) for kind in families] for m in measurements])
    standard = [kind in ALEXNET for kind in families]
    complete = sum(standard) == len(ALEXNET)
    means = errors[:, standard].mean(axis=1) if complete else np.full(len(errors), np.nan)
    baseline, mce = _mce(measurements)
    return Heat(
        measurements[0].suite,
        measurements[0].protocol,
        tuple(families),
        tuple(families.values()),
        tuple(m.label for m in measurements),
        errors,
        means,
        baseline,
        mce,
        tuple(len(m.records) for m in measurements),
        tuple(len(m.records[0].index) for m in measurements),
    )


def _error(m: SeedGroup, kind: str) -> float:
    """Mean over severities and seeds; NaN if it was not measured."""
    columns = [cell.outcomes["correct"] for r in m.records for cell in r.cells if cell.kind == kind]
    return 1 - float(np.mean([c.mean() for c in columns])) if columns else float("nan")


def _mce(measurements: Sequence[SeedGroup]) -> tuple[str, np.ndarray]:
    candidates = [ALEXNET_BASELINE, *_pixels(measurements)]
    for baseline in candidates:
        try:
            found = [
                np.mean([corruption_errors(record, baseline).mce for record in m.records])
                for m in measurements
            ]
        except CossError:  # other images than ImageNet-C's, or a corruption is missing
            continue
        return baseline.name, np.array(found)
    return "", np.full(len(measurements), np.nan)


def _pixels(measurements: Sequence[SeedGroup]) -> list[Baseline]:
    try:
        return [baseline_of(m.label, m.records) for m in measurements if m.control == "pixels"]
    except CossError:
        return []
