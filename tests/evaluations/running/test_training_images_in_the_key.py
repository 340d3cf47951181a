"""Of a model with a classifier of its own, what training images determine is measured again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from helpers.bench import Bench
from helpers.picture_files import write_pictures

from robustbench_coss.records.record import Record, find_records


@pytest.mark.slow
def test_other_training_images_give_other_neighbours(tmp_path: Path, bench: Bench) -> None:
    for role, seed in (("one/train", 1), ("one/val", 2), ("two/train", 3)):
        write_pictures(tmp_path / role, ("9", "10", "11"), 6, seed)
    shutil.copytree(tmp_path / "one/val", tmp_path / "two/val")
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=3)
    torch.save(model.state_dict(), tmp_path / "model.pth")

    def measured(data: str) -> dict[str, Record]:
        words: list[Any] = ["eval", tmp_path / "model.pth", "--dataset", "imagefolder"]
        words += ["--data-root", tmp_path / data, "--results", tmp_path / "r"]
        words += ["--device", "cpu", "--size", 32, "--suite", "clean,crop", "--set"]
        found = bench(*words, "crop.areas=[0.5]")
        assert found.code == 0, found.err
        return {record.suite: record for _, record in find_records(tmp_path / "r")}

    one, two = measured("one"), measured("two")
    # Other images in the bank, at random features: some of the answers turn.
    knn = [r["clean"].cells[0].outcomes["knn"].tolist() for r in (one, two)]
    assert knn[0] != knn[1]
    assert one["clean"].key != two["clean"].key
    assert one["clean"].dataset["train"] != two["clean"].dataset["train"]
    assert one["crop"].key == two["crop"].key
    assert "train" not in one["crop"].dataset
