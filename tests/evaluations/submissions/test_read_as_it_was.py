"""Submitting and verifying models whose files do not say all of how they were measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from helpers.bench import Bench

from robustbench_coss.records.record import find_records

pytestmark = pytest.mark.usefixtures("few_pictures")
SMALL = ["--dataset", "parts", "--suite", "crop", "--set", "crop.areas=[0.5]", "--limit", 12]
SMALL += ["--probe-train", 40, "--device", "cpu"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("m.pth", ["--size", 32, "--arch", "torchvision:resnet18"]),
        ("m.pth", ["--transfer", "--size", 40]),
        ("control:untrained:rf9_resnet18:0.0625", ["--size", 40]),
    ],
)
def test_a_model_is_read_as_it_was_measured(
    model: str, options: list[object], bench: Bench, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=10).state_dict(), "m.pth")
    assert bench("eval", model, *SMALL, *options).code == 0
    ((path, _),) = find_records(tmp_path / "results")
    folder = path.parents[1].name
    named = model if model == "m.pth" else folder
    assert bench("submit", named, "--out", "b.zip").code == 0
    found = bench("verify", "b.zip", "--encoder", model, "--cells", 1, "--device", "cpu")
    assert found.code == 0, found.out + found.err
    assert "reproduced: every outcome equal" in found.out


@pytest.mark.slow
def test_a_file_that_was_read_in_two_ways_is_submitted_by_the_name_of_one(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(torchvision.models.resnet18(num_classes=10).state_dict(), "m.pth")
    for size in (32, 40):
        assert bench("eval", "m.pth", *SMALL, "--size", size).code == 0
    refused = bench("submit", "m.pth", "--out", "b.zip")
    assert refused.code == 1
    assert "name it as it was read: m-" in refused.err


def test_another_file_is_not_the_one_that_was_measured(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("m.pth", "other.pth")):
        torch.manual_seed(seed)
        torch.save(torchvision.models.resnet18(num_classes=10).state_dict(), name)
    assert bench("eval", "m.pth", *SMALL, "--size", 32).code == 0
    ((path, _),) = find_records(tmp_path / "results")
    assert bench("submit", path.parents[1].name, "--out", "b.zip").code == 0
    found = bench("verify", "b.zip", "--encoder", "other.pth")
    assert found.code == 1
    assert "was measured; pass that one by --encoder" in found.err
