"""Models are measured in evaluation mode, whatever mode they come in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.toy_suite import ToyData, ToyEncoder
from torch import Tensor, nn

from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.models.checkpoint import Checkpoint


class Normalised(ToyEncoder):
    """With BatchNorm, whose answers depend on the batch in training mode, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(0.5)

    def local(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.norm(super().local(x)))
        return out


@pytest.mark.parametrize("own_head", [False, True])
def test_a_model_in_training_mode_is_measured_in_evaluation_mode(
    tmp_path: Path, own_head: bool
) -> None:
    torch.manual_seed(0)
    encoder, head = Normalised(), nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 3))
    with torch.no_grad():
        encoder.norm.running_mean.normal_(0.5, 0.2)  # type: ignore[union-attr]
    encoder.train()
    head.train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}

    def load() -> Checkpoint:
        about = {"arch": "toy", "width": 1.0, "size": 8, "dataset": None, "training": {}}
        given = (head, 3) if own_head else ()
        return Checkpoint(encoder, "net", None, "ab" * 32, about, *given)

    request = Evaluation(
        "toy", dataset="toy-data", transfer=not own_head, results=tmp_path, batch_size=7
    )
    ((_, record),) = evaluate_run(load, request).items()
    assert all(check.passed for check in record.checks if check.name != "all there")
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key  # no statistics moved
    if own_head:
        test = ToyData().open("test", 8, Path(), False)
        images = test.images(record.index.tolist()).float() / 255
        with torch.no_grad():
            answers = head.eval()(encoder.eval()(images)).argmax(dim=1)
        wanted = (answers == test.labels[record.index.tolist()]).numpy()
        assert record.column("noise@0", "correct").tolist() == wanted.tolist()
