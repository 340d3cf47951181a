"""Which images train the probe, are compared with, and are measured.

The roles have as many images as one another, so that only what is in an image tells its role; and
the images of a role are sorted by class, as folders are.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toy_suite import ToyData, ToyEncoder, ToySuite, make_run, measure
from torch import Tensor

from robustbench_coss.datasets.base import ArraySet

COUNT, CLASSES = 90, 3
MARKS = {"train": 201, "validation": 202, "test": 203}  # the level of an image's first pixel


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, set[int]]]:
    """What was done, and the marks of the images that it was done with, in order."""
    found: list[tuple[str, set[int]]] = []

    def marks(images: Tensor) -> set[int]:
        return {*(images[:, 0, 0, 0] * 255).round().int().tolist()} & {*MARKS.values()}

    def open_role(self: ToyData, role: str, *_: Any) -> ArraySet:
        labels = torch.arange(COUNT) // (COUNT // CLASSES)
        pixels = torch.randint(0, 200, (COUNT, 3, 8, 8), generator=torch.Generator().manual_seed(1))
        pixels[:, 0, 0, 0] = MARKS[role]
        return ArraySet(self.name, role, pixels.to(torch.uint8), labels, tuple("abc"), 8)

    local, prepare, of_batch = ToyEncoder.local, ToySuite.prepare, ToySuite.measure

    def noted_local(self: ToyEncoder, x: Tensor) -> Tensor:
        found.extend([("encoder", marks(image[None])) for image in x])
        return local(self, x)

    def noted_prepare(self: ToySuite, subject: Any, reference: Any, size: int) -> None:
        found.append(("reference", marks(reference.images)))
        found.append(("features", {len(subject.training_features(COUNT)[0])}))
        prepare(self, subject, reference, size)

    def noted_measure(self: ToySuite, subject: Any, batch: Any, *more: Any) -> dict[str, Tensor]:
        found.append(("measure", marks(batch.images)))
        return of_batch(self, subject, batch, *more)

    monkeypatch.setattr(ToyData, "open", open_role)
    monkeypatch.setattr(ToyEncoder, "local", noted_local)
    monkeypatch.setattr(ToySuite, "prepare", noted_prepare)
    monkeypatch.setattr(ToySuite, "measure", noted_measure)
    monkeypatch.setattr(ToySuite, "log", [])
    return found


def test_the_probe_and_what_suites_compare_with_are_training_images(
    seen: list[tuple[str, set[int]]], tmp_path: Path
) -> None:
    measure(make_run(tmp_path / "runs" / "r"))
    first = next(k for k, (what, _) in enumerate(seen) if what == "measure")
    images = Counter(mark for what, marks in seen[:first] if what == "encoder" for mark in marks)
    assert images[MARKS["train"]] >= COUNT
    assert images[MARKS["validation"]] >= COUNT
    # Two show whether the model takes images of this size at all, 32 are asked about three times.
    assert images[MARKS["test"]] <= 2 + 3 * 32
    assert [marks for what, marks in seen if what == "reference"] == [{MARKS["train"]}]
    assert {frozenset(m) for what, m in seen if what == "measure"} == {frozenset({MARKS["test"]})}


def test_a_limit_takes_images_of_all_classes_from_a_sorted_set(
    seen: list[tuple[str, set[int]]], tmp_path: Path
) -> None:
    measure(make_run(tmp_path / "runs" / "r"), limit=12)
    (indices,) = {indices for _, indices in ToySuite.log}
    assert len(set(indices)) == 12
    # Twelve of 90 at random leave out one of three classes in fewer than 2 of 100 draws.
    assert {i // (COUNT // CLASSES) for i in indices} == {0, 1, 2}
    assert set(indices) != set(range(12))
    assert seen
