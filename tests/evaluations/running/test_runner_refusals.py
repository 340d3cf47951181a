"""What cannot be measured is refused, or named in the record."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toy_suite import TOY_DATA, OtherData, ToyData, ToyEncoder, ToySuite, make_run, measure
from torch import Tensor, nn

from robustbench_coss.datasets.base import ArraySet
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.models.checkpoint import load_checkpoint, save_encoder
from robustbench_coss.records.record import find_records


def test_a_suite_whose_outcomes_are_not_one_per_sample_is_named(run: Path) -> None:
    with pytest.raises(CossError, match=r"suite 'bad' gave columns .* for 60 images"):
        measure(run, ["bad"])
    assert ToySuite.events[-1] == "close"


def test_another_data_set_is_refused_unless_transfer_is_meant(run: Path) -> None:
    with pytest.raises(CossError, match=r"pretrained on 'toy-data', not 'other-data'; add --trans"):
        measure(run, dataset="other-data")
    assert ToySuite.log == []
    record = measure(run, dataset="other-data", transfer=True)
    assert record.dataset["name"] == "other-data"
    assert record.model["dataset"] == "toy-data"
    assert record.model["probe"]["dataset"] == "other-data"


def test_a_checkpoint_without_a_data_set_needs_one_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "orphan", dataset=None)
    with pytest.raises(CossError, match="name a data set with --dataset"):
        measure(run)
    assert measure(run, dataset="other-data").model["dataset"] is None


def test_a_file_in_the_way_of_the_results_stops_before_any_measurement(run: Path) -> None:
    results = run.parent / "results"
    results.write_text("")
    with pytest.raises(CossError, match="a file is in the way"):
        measure(run, results=results)
    assert ToySuite.log == []


def test_an_encoder_that_gives_nan_is_named(run: Path) -> None:
    encoder = ToyEncoder()
    nn.init.constant_(encoder.convolution.bias, float("nan"))  # type: ignore[arg-type]
    metadata = {"arch": "toy-encoder", "width": 1.0, "size": 8, "dataset": "toy-data"}
    save_encoder(run / "encoder.safetensors", encoder, metadata)
    with pytest.raises(CossError, match="NaN or infinite"):
        measure(run)
    assert ToySuite.log == []


class NanHead(nn.Module):
    """Knows the three toy classes, but has no finite answer to the image it sees first."""

    def forward(self, features: Tensor) -> Tensor:
        logits = 100 * features[:, :3]
        logits[0] = float("nan")
        return logits


def with_head(run: Path, head: nn.Module, classes: int) -> Any:
    return lambda: replace(load_checkpoint(run), head=head, classes=classes)


def test_outputs_that_are_not_finite_mark_the_cell_and_count_as_wrong(run: Path) -> None:
    model = with_head(run, NanHead(), 3)
    asked = Evaluation("crop", results=run / "r", device="cpu", batch_size=20)
    (record,) = evaluate_run(model, asked).values()
    cells = record.cells
    assert len(cells) == 13
    assert {cell.problem for cell in cells[1:]} == {"6 outputs of the model were NaN or infinite"}
    for cell in cells:
        assert not cell.outcomes["correct"][[0, 20, 40]].any()
        assert not cell.outcomes["agrees"][[0, 20, 40]].any()
        assert cell.outcomes["agrees"].any()


def test_a_model_with_a_head_of_its_own_is_measured_with_it_and_no_probe(run: Path) -> None:
    head = nn.Linear(6, 3)
    asked = Evaluation("toy", results=run / "r", device="cpu")
    (record,) = evaluate_run(with_head(run, head, 3), asked).values()
    assert not (run / "r" / "probes").exists() or not any((run / "r" / "probes").iterdir())
    assert record.model["probe"] == {"own_head": True}
    test = TOY_DATA.open("test", 8, Path(), False)
    index = torch.from_numpy(record.index).long()
    with torch.no_grad():
        logits = head(load_checkpoint(run).encoder(test.pixels[index].float() / 255))
    expected = (logits.argmax(dim=1) == test.labels[index]).numpy()
    assert np.array_equal(record.column("noise@0", "correct"), expected)


def test_a_head_for_another_number_of_classes_is_refused_with_both_numbers(run: Path) -> None:
    model = with_head(run, nn.Linear(6, 1000), 1000)
    with pytest.raises(CossError, match=r"into 1000 classes and data set 'toy-data' has 3"):
        evaluate_run(model, Evaluation("toy", results=run / "r"))
    (record,) = evaluate_run(model, Evaluation("toy", results=run / "r", transfer=True)).values()
    assert record.model["probe"]["n_train"] == 90


def test_a_label_beyond_the_classes_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_a_fourth(self: ToyData, role: str, size: int, root: Path, download: bool) -> ArraySet:
        made = ToyData().open(role, size, root, download)
        made.labels[5] = 3
        return made

    monkeypatch.setattr(OtherData, "open", with_a_fourth)
    with pytest.raises(CossError, match=r"has 3 classes but a test image with label 3"):
        measure(run, dataset="other-data", transfer=True)


class Picky(ToyEncoder):
    def local(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 16:
            raise AssertionError(f"Input height ({x.shape[-2]}) doesn't match model (16).")
        return super().local(x)


def test_a_model_that_refuses_the_image_size_is_told_in_one_line(run: Path) -> None:
    model = partial(replace, load_checkpoint(run), encoder=Picky())
    with pytest.raises(CossError, match=r"does not take images of 8 px \(Input height.*--size$"):
        evaluate_run(model, Evaluation("toy", results=run / "r", device="cpu"))


def test_a_suite_that_cannot_measure_the_model_stops_no_other(run: Path) -> None:
    message = r"too much for me, or leave it out with --suite toy,linked"
    with pytest.raises(CossError, match=message):
        measure(run, ["toy", "shy", "linked"])
    assert {r.suite for _, r in find_records(run.parent.parent / "results")} == {"toy", "linked"}
    assert ToySuite.events.count("close") == 3
