"""Outputs that are not finite are counted over all shards, as in one piece."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toy_suite import ToyData, ToyEncoder
from torch import Tensor, nn

from robustbench_coss.evaluations.running import runner
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.machine.executors import in_process
from robustbench_coss.models.checkpoint import Checkpoint


class Breaks(nn.Linear):
    """NaN for about a third of the images."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return torch.where(logits.argmax(dim=1, keepdim=True) == 0, torch.nan, logits)


@pytest.mark.parametrize("executor", [None, in_process])
def test_all_shards_count(executor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    encoder, head = ToyEncoder().eval(), Breaks(6, 3)
    about = {"arch": "toy", "width": 1.0, "size": 8, "dataset": None, "training": {}}
    model = Checkpoint(encoder, "net", None, "ab" * 32, about, head, 3)
    monkeypatch.setattr(runner, "SHARD", 14)
    request = Evaluation("toy", dataset="toy-data", results=tmp_path, batch_size=7)
    ((_, record),) = evaluate_run(lambda: model, request, executor=executor).items()
    test = ToyData().open("test", 8, Path(), False)
    with torch.no_grad():
        logits = head(encoder(test.images(record.index.tolist()).float() / 255))
    broken = int(torch.isnan(logits).any(dim=1).sum())
    assert 5 < broken < 55
    (clean,) = (cell for cell in record.cells if cell.condition == "noise@0")
    assert clean.problem.startswith(f"{broken} outputs of the model were NaN")
