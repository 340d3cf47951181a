"""What is up to date: nothing that reaches a pixel or a logit changes without being measured."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models as tv

import robustbench_coss
from robustbench_coss.datasets import parts
from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.encoders.resnet import resnet18
from robustbench_coss.errors import CossError
from robustbench_coss.models.checkpoint import Checkpoint, save_encoder
from robustbench_coss.models.identity import module_sha256
from robustbench_coss.models.load import load_model
from robustbench_coss.records.record import find_records, read_record

SIGN = 1.0


@pytest.fixture(autouse=True)
def few_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for role, count in {"train": 100, "validation": 30, "test": 40}.items():
        monkeypatch.setitem(parts.COUNTS, role, count)


class Judge(nn.Module):
    """Logits [B, 10] of mean colours; `sign` -1 turns the order of the answers round."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.answer = nn.Linear(48, 10)
        self.grid = nn.AdaptiveAvgPool2d(4)
        self.sign = 1.0
        self.register_buffer("shift", torch.zeros(10), persistent=False)
        self.last: Callable[[Tensor], Tensor] = lambda x: x

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = SIGN * self.sign * self.answer(self.grid(x).flatten(1)) + self.shift
        return self.last(out)


def measure(model: Any, folder: Path, *, force: bool = False, **options: Any) -> Any:
    """The cell of the clean images, and its record."""
    request = robustbench_coss.Evaluation(
        "clean", dataset="parts", results=folder, device="cpu", force=force
    )
    (done,) = robustbench_coss.evaluate(model, request, **options)
    return done


def answers_by_hand(
    net: nn.Module, index: Any, mean: float = 0.0, std: float = 1.0
) -> tuple[np.ndarray[Any, Any], Tensor]:
    test = open_dataset("parts", "test")
    pixels = (test.images(index.tolist()).float() / 255 - mean) / std
    with torch.no_grad():
        logits = net.eval()(pixels)
    return (logits.argmax(dim=1) == test.labels[index.tolist()]).numpy(), logits


def turn_attribute(net: Any, patch: pytest.MonkeyPatch) -> None:
    net.sign = -1.0


def turn_buffer(net: Any, patch: pytest.MonkeyPatch) -> None:
    net.shift = torch.linspace(50, -50, 10)


def turn_closure(net: Any, patch: pytest.MonkeyPatch) -> None:
    factor = -1.0
    net.last = lambda x: factor * x


def turn_global(net: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(f"{__name__}.SIGN", -1.0)


def turn_hook(net: Any, patch: pytest.MonkeyPatch) -> None:
    net.register_forward_hook(lambda module, inputs, out: -out)


def turn_weights(net: Any, patch: pytest.MonkeyPatch) -> None:
    nn.init.zeros_(net.answer.weight)


TURNS = [turn_attribute, turn_buffer, turn_closure, turn_global, turn_hook, turn_weights]


@pytest.mark.parametrize("name", [None, "judge"])
@pytest.mark.parametrize("turn", TURNS)
def test_a_module_that_changed_in_any_way_is_measured_again(
    turn: Any, name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Judge()
    first = measure(net, tmp_path, name=name)
    index = first.so_far.index
    before, logits = answers_by_hand(net, index)
    assert np.array_equal(first.cell.outcomes["correct"], before)
    turn(net, monkeypatch)
    expected, other = answers_by_hand(net, index)
    assert not torch.allclose(logits, other)
    assert not np.array_equal(before, expected)
    second = measure(net, tmp_path, name=name)
    assert np.array_equal(second.cell.outcomes["correct"], expected)
    assert second.so_far.key != first.so_far.key


@pytest.mark.parametrize("name", [None, "judge"])
def test_other_normalisation_is_another_model(name: str | None, tmp_path: Path) -> None:
    net = Judge()
    first = measure(net, tmp_path, name=name)
    three = {"mean": (9.0, 9.0, 9.0), "std": (-0.01, -0.01, -0.01)}
    second = measure(net, tmp_path, name=name, **three)
    expected, _ = answers_by_hand(net, first.so_far.index, 9.0, -0.01)
    assert np.array_equal(second.cell.outcomes["correct"], expected)
    assert not np.array_equal(first.cell.outcomes["correct"], expected)
    assert second.record != first.record  # neither takes the other's place
    third = measure(net, tmp_path, name=name)
    assert np.array_equal(third.cell.outcomes["correct"], first.cell.outcomes["correct"])


def test_a_module_without_a_name_is_measured_anew_and_one_with_a_name_is_not(
    tmp_path: Path,
) -> None:
    net, calls = Judge(), []
    net.answer.register_forward_hook(lambda *_: calls.append(1))

    def count(**options: Any) -> int:
        calls.clear()
        measure(net, tmp_path, **options)
        return len(calls)

    assert count() == count() > 1
    assert count(name="judge") > 1
    assert count(name="judge") == 1  # which tells that it is the same
    assert count(name="judge", version="2") > 1
    assert count(name="judge", version="2") == 1
    names = {record.model["name"] for _, record in find_records(tmp_path)}
    assert names == {"Judge", "judge", "judge 2"}


def test_a_broken_off_measurement_of_a_nameless_module_is_not_continued(tmp_path: Path) -> None:
    net = Judge()
    request = robustbench_coss.Evaluation(
        "crop", dataset="parts", results=tmp_path, device="cpu", limit=10
    )
    for done in robustbench_coss.evaluate(net, request):
        assert done.cell.condition == "full"
        break
    turn_attribute(net, pytest.MonkeyPatch())
    done = next(iter(robustbench_coss.evaluate(net, request)))
    expected, _ = answers_by_hand(net, done.so_far.index)
    assert np.array_equal(done.cell.outcomes["correct"], expected)


def test_force_fits_the_probe_to_the_features_that_it_meets(tmp_path: Path) -> None:
    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grid, self.sign = nn.AdaptiveAvgPool2d(4), 1.0

        def forward(self, x: Tensor) -> Tensor:
            return self.sign * self.grid(x).flatten(1)

    net = Features()
    first = measure(net, tmp_path, name="f").so_far
    net.sign = -1.0
    # A logistic probe on -x is the one on x with its weights turned round: nothing else may change.
    for folder in (tmp_path, tmp_path / "fresh"):
        second = measure(net, folder, name="f", force=True)
        assert second.so_far.model["probe"]["key"] != first.model["probe"]["key"]
        assert np.array_equal(second.cell.outcomes["correct"], first.cells[0].outcomes["correct"])


@pytest.mark.slow
def test_what_determines_a_module_is_the_same_digest_in_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = "from collections.abc import Callable\nimport torch\nfrom torch import Tensor, nn\n"
    (tmp_path / "judge.py").write_text(f"{needed}SIGN = 1.0\n{inspect.getsource(Judge)}")
    monkeypatch.syspath_prepend(tmp_path)
    here = importlib.import_module("judge").Judge()
    code = (
        "from judge import Judge\nfrom robustbench_coss.models.identity import module_sha256\n"
        "print(module_sha256(Judge(), size=8))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "1"},
    ).stdout
    assert there.strip() == module_sha256(here, size=8) != module_sha256(here, size=9)


# ---- files ----


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(tv.resnet18(num_classes=10).state_dict(), tmp_path / "plain.pth")
    return tmp_path / "plain.pth"


def shas(*models: Checkpoint) -> int:
    return len({model.sha256 for model in models})


@pytest.mark.slow
def test_a_file_read_in_another_way_is_another_model(plain: Path) -> None:
    assert shas(load_model(plain), load_model(plain, size=64), load_model(plain, size=32)) == 3
    assert shas(load_model(plain), load_model(plain, format="dino")) == 2


@pytest.mark.slow
def test_saying_what_a_file_says_itself_changes_nothing(plain: Path) -> None:
    same = {"size": 224, "format": "torchvision", "arch": "torchvision:resnet18"}
    models = [load_model(plain, **{key: value}) for key, value in same.items()]  # type: ignore[arg-type]
    assert shas(load_model(plain), *models, load_model(plain, **same)) == 1  # type: ignore[arg-type]


def test_another_architecture_for_the_same_weights_is_measured_again(tmp_path: Path) -> None:
    """EfficientNet and its TensorFlow twin have equal names and shapes, and pad differently."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("efficientnet_b0", num_classes=10)
    path = tmp_path / "b0.pth"
    torch.save(network.state_dict(), path)
    archs = ("timm:efficientnet_b0", "timm:tf_efficientnet_b0")
    one, other = (load_model(path, arch=arch, size=64) for arch in archs)
    assert shas(one, other) == 2
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert not torch.allclose(one.encoder(images), other.encoder(images))


def test_fresh_networks_of_two_architectures_are_two_models() -> None:
    pytest.importorskip("timm")
    names = ("timm:efficientnet_b0", "timm:tf_efficientnet_b0")
    assert shas(*(load_model(name, size=64) for name in names)) == 2
    assert shas(*(load_model("torchvision:resnet18", size=size) for size in (32, 64))) == 2


def test_an_architecture_that_a_run_does_not_have_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run" / "encoder.safetensors"
    save_encoder(
        path, resnet18(size=32, width=0.125), {"arch": "resnet18", "width": 0.125, "size": 32}
    )
    assert load_model(path, arch="resnet18").sha256 == load_model(path).sha256
    with pytest.raises(CossError, match="is of resnet18, not resnet50; leave out --arch"):
        load_model(path, arch="resnet50")


@pytest.mark.slow
def test_the_records_of_two_sizes_of_one_file_lie_beside_each_other(
    plain: Path, tmp_path: Path
) -> None:
    for size in (32, 40):
        model = load_model(plain, size=size)
        done = measure(model, tmp_path)
        assert read_record(done.record).dataset["size"] == size
    assert sorted(r.dataset["size"] for _, r in find_records(tmp_path)) == [32, 40]
