"""What a record holds, and what is measured for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from helpers.toy_suite import TOY_DATA, measure
from torch import Tensor

from robustbench_coss.datasets import parts
from robustbench_coss.datasets.base import ArraySet
from robustbench_coss.evaluations.probes.features import batches
from robustbench_coss.models.checkpoint import build_encoder, load_checkpoint, save_encoder
from robustbench_coss.records.record import (
    Check,
    find_records,
)

CPU = torch.device("cpu")


def test_a_record_says_what_was_measured_on_what_and_how(run: Path) -> None:
    record = measure(run, limit=40, seed=3)
    assert record.complete
    assert [c.condition for c in record.cells] == ["noise@0", "noise@1", "noise@2"]
    assert (record.suite, record.suite_config, record.seed) == ("toy", {"noise": "uniform"}, 3)
    model = record.model
    assert model["name"] == "toy-run"
    assert model["parameters"] == 3 * 6 * 2 * 2 + 6
    assert model["training"] == {"epochs": 3}
    assert (model["method"], model["encoder"], model["dataset"]) == ("byol", "online", "toy-data")
    assert model["probe"]["settings"]["kind"] == "logistic"
    assert 0 <= model["probe"]["train_top1"] <= 1
    assert record.dataset["n"] == record.dataset["limit"] == 40
    assert (record.dataset["classes"], record.dataset["size"]) == (3, 8)
    assert record.checks == [Check("all there", False, "3 of 4 conditions")]
    assert record.created.endswith("+00:00")
    assert "thread" in record.device
    assert "torch" in record.versions


def test_outcomes_are_those_of_encoder_and_probe_on_the_samples_listed(run: Path) -> None:
    from robustbench_coss.evaluations.probes.linear import probe_path

    record = measure(run, batch_size=7)
    cached = next((run.parent.parent / "results" / "probes").iterdir())
    assert cached == probe_path(run.parent.parent / "results", record.model["probe"]["key"])
    from safetensors.torch import load_file

    weights = load_file(cached)
    test = TOY_DATA.open("test", 8, Path(), False)
    index = torch.from_numpy(record.index).long()
    with torch.no_grad():
        features = load_checkpoint(run).encoder(test.pixels[index].float() / 255)
    logits = features @ weights["weight"].T + weights["bias"]
    assert np.array_equal(record.label, test.labels[index].numpy())
    expected = (logits.argmax(dim=1) == test.labels[index]).numpy()
    assert 0 < expected.mean() < 1
    assert np.array_equal(record.column("noise@0", "correct"), expected)


def test_columns_are_stored_as_bool_and_float32(run: Path) -> None:
    record = measure(run)
    assert record.column("noise@1", "correct").dtype == np.bool_
    assert record.column("noise@1", "logit").dtype == np.float32


def test_all_labelled_test_images_are_measured_and_the_unlabelled_one_is_not(run: Path) -> None:
    record = measure(run)
    assert sorted(record.index.tolist()) == [i for i in range(61) if i != 7]
    assert (record.label >= 0).all()


def test_the_images_of_a_smaller_limit_are_the_first_of_a_larger_one(run: Path) -> None:
    small, large = measure(run, limit=10), measure(run, limit=25)
    assert small.index.tolist() == large.index.tolist()[:10]
    for cell in small.cells:
        again = large.column(cell.condition, "logit")[:10]
        np.testing.assert_allclose(cell.outcomes["logit"], again, rtol=1e-5, atol=1e-6)


def test_batch_size_does_not_change_outcomes(run: Path) -> None:
    whole = measure(run, batch_size=256)
    pieces = measure(run, batch_size=7, force=True)
    assert whole.key == pieces.key
    for cell in whole.cells:
        assert np.array_equal(cell.outcomes["correct"], pieces.column(cell.condition, "correct"))
        np.testing.assert_allclose(
            cell.outcomes["logit"], pieces.column(cell.condition, "logit"), rtol=1e-5, atol=1e-5
        )


def test_images_are_asked_for_in_batches_and_at_most_one_ahead() -> None:
    class Counting(ArraySet):
        asked: ClassVar[list[int]] = []

        def images(self, indices: Sequence[int]) -> Tensor:
            self.asked.append(len(indices))
            return super().images(indices)

    images = Counting(
        "c", "test", torch.zeros(100, 3, 8, 8, dtype=torch.uint8), torch.arange(100), ("a",), 8
    )
    seen: list[int] = []
    for number, batch in enumerate(batches(images, list(range(100)), 8, CPU), start=1):
        assert len(images.asked) <= number + 1
        assert torch.equal(batch.labels, torch.tensor(batch.index))
        seen += batch.index
    assert seen == list(range(100))
    assert max(images.asked) == 8


def test_pixels_reach_the_model_as_floats_from_0_to_1() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    images = ArraySet("p", "test", pixels, torch.tensor([0]), ("a",), 1)
    (batch,) = batches(images, [0], 4, CPU)
    assert batch.images.dtype == torch.float32
    torch.testing.assert_close(batch.images.flatten(), torch.tensor([0.0, 0.2, 1.0]))


def test_records_are_json_that_any_tool_can_read(run: Path) -> None:
    measure(run)
    ((path, _),) = find_records(run.parent.parent / "results")
    assert json.loads(path.read_text())["dataset"]["name"] == "toy-data"


OWN_SUITES = ("clean", "corruption", "occlusion", "adversarial", "crop", "redundancy", "rf")


@pytest.mark.parametrize("suite", OWN_SUITES)
def test_every_suite_of_the_project_measures_a_small_resnet_on_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suite: str
) -> None:
    for role, count in {"train": 200, "validation": 40, "test": 40}.items():
        monkeypatch.setitem(parts.COUNTS, role, count)
    torch.manual_seed(0)
    encoder = build_encoder("resnet18", size=32, width=0.125)
    metadata = {"arch": "resnet18", "width": 0.125, "size": 32, "dataset": "parts"}
    save_encoder(tmp_path / "runs" / "small" / "encoder.safetensors", encoder, metadata)
    record = measure(tmp_path / "runs" / "small", [suite], limit=3)
    assert record.complete
    assert record.dataset["classes"] == 10
    assert all(len(column) == 3 for cell in record.cells for column in cell.outcomes.values())
    assert any(metric.headline for metric in record.metrics)
    assert all(np.isfinite(record.per_sample(metric)).all() for metric in record.metrics)
