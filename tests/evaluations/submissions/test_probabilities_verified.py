"""What a bundle says of probabilities is held to the model like any outcome."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.bundles import PLAN, with_records

from robustbench_coss.evaluations.submissions.agreement import Pair, try_pairs
from robustbench_coss.evaluations.submissions.verify import verify
from robustbench_coss.records.confidence import CONFIDENCE, CONFIDENCES
from robustbench_coss.records.record import Record


def surer(record: Record) -> None:
    for cell in record.cells:
        cell.outcomes[CONFIDENCE] = np.clip(cell.outcomes[CONFIDENCE] + 12, -127, 127).astype(
            np.int8
        )


def without(record: Record) -> None:
    for cell in record.cells:
        for name in CONFIDENCES:
            del cell.outcomes[name]


def only_one(record: Record) -> None:
    for cell in record.cells:
        del cell.outcomes[CONFIDENCE]


@pytest.mark.slow
def test_probabilities_that_were_raised_do_not_reproduce(bundle: Path, tmp_path: Path) -> None:
    forged = with_records(bundle, tmp_path / "forged.zip", surer)
    assert not verify(forged, PLAN).reproduced


@pytest.mark.slow
def test_a_bundle_from_before_there_were_probabilities_is_verified_without_them(
    bundle: Path, tmp_path: Path
) -> None:
    old = with_records(bundle, tmp_path / "old.zip", without)
    report = verify(old, PLAN)
    assert report.reproduced
    assert [note for note in report.notes if "no probabilities" in note] == [
        "some records hold no probabilities, so nothing of them is checked"
    ]
    assert not any("no probabilities" in note for note in verify(bundle, PLAN).notes)


def test_a_bundle_that_lacks_one_of_them_is_not_as_the_suite_measures(
    bundle: Path, tmp_path: Path
) -> None:
    assert not verify(with_records(bundle, tmp_path / "b.zip", only_one), PLAN).reproduced


@pytest.mark.parametrize(("shift", "differ"), [(1, 0), (2, 500)])
def test_the_code_next_to_its_own_is_rounding_but_all_of_them_one_way_are_not(
    shift: int, differ: int
) -> None:
    codes = np.arange(500).astype(np.int8) // 2
    trial = try_pairs("x", [Pair(codes, (codes + shift).astype(np.int8))], 0.001)
    assert trial.differ == differ
    assert trial.p_direction < 1e-6
    jitter = codes + np.where(np.arange(500) % 2, 1, -1)
    both_ways = try_pairs("x", [Pair(codes, jitter.astype(np.int8))], 0.001)
    assert both_ways.p_direction == 1
    assert both_ways.p_share == 1
