"""`robustbench_coss.evaluate`: any module, condition by condition."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ROOT
from torch import Tensor, nn

import robustbench_coss
from robustbench_coss.datasets import parts
from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes.linear import ProbeConfig
from robustbench_coss.records.record import read_record


class Colours(nn.Module):
    """Mean colours of a 4×4 grid; with `classes`, a random linear answer about them."""

    def __init__(self, classes: int | None = None) -> None:
        super().__init__()
        self.grid = nn.AdaptiveAvgPool2d(4)
        torch.manual_seed(0)
        self.answer = nn.Linear(48, classes) if classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.answer(self.grid(x).flatten(1))
        return out


@pytest.fixture(autouse=True)
def few_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for role, count in {"train": 200, "validation": 40, "test": 60}.items():
        monkeypatch.setitem(parts.COUNTS, role, count)


def evaluate(model: Any, folder: Path, **options: Any) -> list[Any]:
    """What is given of `crop` on 30 images; options of `evaluate`, and `dataset` and `probe`."""
    asked = {k: options.pop(k) for k in ("dataset", "probe") if k in options}
    asked = {"dataset": "parts", "results": folder, "device": "cpu", "limit": 30} | asked
    request = robustbench_coss.Evaluation("crop", **asked)
    return list(robustbench_coss.evaluate(model, request, **options))


def test_a_module_that_returns_features_is_measured_with_a_probe(tmp_path: Path) -> None:
    found = evaluate(Colours(), tmp_path, probe=ProbeConfig())
    assert [done.cell.condition for done in found][:2] == ["full", "centre@0.8"]
    assert {done.suite for done in found} == {"crop"}
    record = read_record(found[0].record)
    assert record.model["name"] == "Colours"
    assert record.model["probe"]["n_train"] == 200
    assert len(record.cells) == len(found) == 13


def test_a_module_that_returns_logits_is_measured_as_it_is(tmp_path: Path) -> None:
    model = Colours(classes=10)
    found = evaluate(model, tmp_path, name="colour judge")
    record = read_record(found[0].record)
    assert record.model["probe"] == {"own_head": True}
    test = open_dataset("parts", "test")
    with torch.no_grad():
        logits = model(test.images(record.index.tolist()).float() / 255)
    expected = (logits.argmax(dim=1) == test.labels[record.index.tolist()]).numpy()
    assert np.array_equal(found[0].cell.outcomes["correct"], expected)


def test_pixels_are_normalised_for_a_module_that_asks_for_it(tmp_path: Path) -> None:
    model = Colours(classes=10)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    found = evaluate(model, tmp_path, mean=mean, std=std)
    record = read_record(found[0].record)
    test = open_dataset("parts", "test")
    pixels = test.images(record.index.tolist()).float() / 255
    scaled = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        answers = model(scaled).argmax(dim=1)
    expected = (answers == test.labels[record.index.tolist()]).numpy()
    assert np.array_equal(found[0].cell.outcomes["correct"], expected)


def test_equal_weights_are_recognised_and_others_measured_anew(tmp_path: Path) -> None:
    first = evaluate(Colours(classes=10), tmp_path, name="mine")[0].record
    created = read_record(first).created
    assert evaluate(Colours(classes=10), tmp_path, name="mine")[0].record == first
    assert read_record(first).created == created
    other = Colours(classes=10)
    nn.init.zeros_(other.answer.weight)  # type: ignore[arg-type]
    assert evaluate(other, tmp_path, name="mine")[0].record != first


def test_a_module_alone_does_not_say_what_to_measure_it_on(tmp_path: Path) -> None:
    with pytest.raises(CossError, match=r"pass Evaluation\(dataset=NAME\)"):
        evaluate(Colours(), tmp_path, dataset=None)


def test_logits_for_another_number_of_classes_are_refused_with_both_numbers(
    tmp_path: Path,
) -> None:
    with pytest.raises(CossError, match=r"\b7\b.*\b10\b|\b10\b.*\b7\b"):
        evaluate(Colours(classes=7), tmp_path, output="logits")


def test_the_example_of_the_documentation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "evaluation.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "evaluation.md", "exec"), {"model": Colours(classes=10)})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 13
    assert lines[0].startswith("clean clean ")


def test_importing_the_package_does_not_load_torch() -> None:
    code = "import sys, robustbench_coss; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "False\n"
