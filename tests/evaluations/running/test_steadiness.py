"""Models that are no functions of one image are marked, and a batch of one crashes none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustbench_coss
from robustbench_coss.analysis.numbers import load_table
from robustbench_coss.datasets import parts
from robustbench_coss.evaluations.running.steadiness import NAME, steadiness

IMAGES = torch.rand(9, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.grid, self.fc = nn.AdaptiveAvgPool2d(4), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.grid(x).flatten(1))
        return out


class Noisy(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.01 * torch.randn_like(x))


class Dropping(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.1, training=True)


class Revived(Plain):
    """Puts its dropout back into training mode at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.drop.train()(super().forward(x))
        return out


class Batched(Plain):
    """BatchNorm that keeps no statistics takes those of the batch, and refuses one of one."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(10, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(super().forward(x))
        return out


class Centred(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(dim=0))


class Squeezing(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :, None, None].squeeze()


UNSTEADY = {
    Noisy: "asked twice.*switch off noise and dropout",
    Dropping: "asked twice.*switch off noise and dropout",
    Revived: "asked twice.*switch off noise and dropout",
    Batched: "in another batch.*running statistics",
    Centred: "in another batch.*running statistics",
}


@pytest.fixture
def few_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for role, count in {"train": 40, "validation": 20, "test": 9}.items():
        monkeypatch.setitem(parts.COUNTS, role, count)


def evaluate(net: nn.Module, folder: Path, suites: Any, batch_size: int) -> list[Any]:
    options = {"adversarial": {"attacks": ["fgsm", "apgd-dlr-l2"], "eps_l2": [0.1], "steps": 1}}
    request = robustbench_coss.Evaluation(
        suites, "parts", results=folder, device="cpu", batch_size=batch_size, options=options
    )
    return list(robustbench_coss.evaluate(net, request))


@pytest.mark.parametrize("kind", UNSTEADY)
@torch.no_grad()
def test_an_answer_that_changes_fails_the_check_and_says_what_to_do(kind: Any) -> None:
    found = steadiness(kind().eval(), IMAGES)
    assert found is not None
    assert (found.name, found.passed) == (NAME, False)
    assert re.search(UNSTEADY[kind], found.detail)


@pytest.mark.parametrize("kind", [Plain, Squeezing])
@pytest.mark.parametrize("count", [2, 3, 9])
def test_a_function_passes(kind: Any, count: int) -> None:
    net = kind().eval()
    assert steadiness(lambda x: net(torch.cat([x, x]))[: len(x)], IMAGES[:count]) is None


@pytest.mark.usefixtures("few_parts")
def test_every_suite_of_such_a_model_is_marked(tmp_path: Path) -> None:
    evaluate(Noisy(), tmp_path, ["clean", "crop"], 9)
    evaluate(Plain(), tmp_path, ["clean", "crop"], 9)
    table = load_table(tmp_path)
    marked = {
        (line["model"], line["suite"]): NAME in line["failed_checks"]
        for line in table.to_dict("records")
    }
    assert marked == {
        ("Noisy", "clean"): True,
        ("Noisy", "crop"): True,
        ("Plain", "clean"): False,
        ("Plain", "crop"): False,
    }


@pytest.mark.usefixtures("few_parts")
@pytest.mark.parametrize("kind", [Batched, Squeezing])
def test_a_last_batch_and_an_attack_of_one_image_do_not_crash(kind: Any, tmp_path: Path) -> None:
    found = evaluate(kind(), tmp_path, ["clean", "adversarial"], 8)  # 9 images: 8 and 1
    whole = evaluate(kind(), tmp_path / "whole", ["clean"], 9)
    assert {done.suite for done in found} == {"clean", "adversarial"}
    if kind is Squeezing:  # a function: what it says does not depend on company
        outcomes = [d[0].cell.outcomes["correct"] for d in (found, whole)]
        assert np.array_equal(*outcomes)
