"""Test pictures alone are enough for a model's own head and suites that train nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from helpers.bench import Bench
from helpers.picture_files import write_pictures

from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.records.record import Record, find_records


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for role, seed in (("train", 1), ("val", 2)):
        write_pictures(tmp_path / "both" / role, ("9", "10", "11"), 6, seed)
    shutil.copytree(tmp_path / "both/val", tmp_path / "alone/val")
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=3).state_dict(), tmp_path / "model.pth")
    return tmp_path


def measured(bench: Bench, root: Path, data: str, suites: str, *more: str) -> dict[str, Record]:
    found = bench(
        *("eval", root / "model.pth", "--dataset", "imagefolder", "--data-root", root / data),
        *("--results", root / f"r-{data}", "--device", "cpu", "--size", 32, "--suite", suites),
        *("--set", "crop.areas=[0.5]", "--limit", 5, *more),
    )
    assert found.code == 0, found.err
    return {record.suite: record for _, record in find_records(root / f"r-{data}")}


@pytest.mark.slow
def test_test_pictures_alone_give_the_outcomes_that_they_give_beside_others(
    pictures: Path, bench: Bench
) -> None:
    both = measured(bench, pictures, "both", "crop,corruption")
    alone = measured(bench, pictures, "alone", "crop,corruption")
    for suite, record in alone.items():
        assert record.key == both[suite].key
        for mine, theirs in zip(record.cells, both[suite].cells, strict=True):
            assert mine.outcomes["correct"].tolist() == theirs.outcomes["correct"].tolist()
    labels = [
        open_dataset("imagefolder", "test", root=pictures / d).labels for d in ("both", "alone")
    ]
    assert torch.equal(*labels)


@pytest.mark.parametrize(
    "more", [["--suite", "clean"], ["--suite", "crop", "--transfer"], ["--suite", "adversarial"]]
)
def test_what_needs_training_images_names_them(
    pictures: Path, bench: Bench, more: list[str]
) -> None:
    found = bench(
        *("eval", pictures / "model.pth", "--dataset", "imagefolder", "--size", 32),
        *("--data-root", pictures / "alone", "--results", pictures / "r", "--device", "cpu", *more),
    )
    assert found.code == 1
    line = found.err.splitlines()[-1]
    assert line.startswith("error: ")
    assert "has val/ but no train/" in line
    assert "corruption, crop and shift" in line
