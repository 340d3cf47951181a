"""What of a recipe reaches Lightning's trainer, the encoder and what is watched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustbench_coss.datasets.base import ArraySet
from robustbench_coss.pretrain import loop, train
from robustbench_coss.pretrain.last_checkpoint import AtomicCheckpointIO
from robustbench_coss.pretrain.recipe import Recipe, build_recipe
from robustbench_coss.seeds import seed_of

CPU = torch.device("cpu")


def recipe(**values: Any) -> Recipe:
    small = {"method": "simclr", "options": {"hidden": 8, "dim": 8}, "batch_size": 8}
    return build_recipe({"arch": "rf9_resnet18", "width": 1 / 16} | small | values, "test")


@pytest.mark.parametrize(
    ("values", "argument", "wanted"),
    [
        ({"accumulate": 4}, "accumulate_grad_batches", 4),
        ({"epochs": 7}, "max_epochs", 7),
        ({"precision": "bf16"}, "precision", "bf16-mixed"),
        ({"precision": "32"}, "precision", "32-true"),
    ],
)
def test_a_recipe_reaches_the_trainer(
    values: dict[str, Any], argument: str, wanted: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(loop.pl, "Trainer", lambda **given: seen.append(given))
    loop._trainer(recipe(**values), tmp_path, CPU, [], AtomicCheckpointIO(None), False)
    assert seen[0][argument] == wanted


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([3.0, 4.0]))


@pytest.mark.parametrize("norm", [0.5, 100.0, None])
def test_gradients_are_scaled_down_to_the_norm_asked_for(
    norm: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(loop.pl, "Trainer", lambda **given: seen.append(given))
    asked = recipe(optimizer={"clip": norm})
    loop._trainer(asked, tmp_path, CPU, [], AtomicCheckpointIO(None), False)
    module = Line()
    module.weight.grad = torch.tensor([6.0, 8.0])  # of norm 10
    for callback in seen[0]["callbacks"]:
        callback.on_before_optimizer_step(None, module, None)
    scale = min(1.0, (norm or 100) / 10)
    torch.testing.assert_close(module.weight.grad, scale * torch.tensor([6.0, 8.0]))


def trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: ArraySet, **values: Any
) -> tuple[Any, list[Any]]:
    """The method and the monitors that a run would train with."""
    seen: list[tuple[Any, list[Any]]] = []

    class Stopped(Exception):
        pass

    def stop(method: Any, _: Any, __: Any, ___: Any, resumed: Any, monitors: Any, log: Any) -> None:
        seen.append((method, monitors))
        raise Stopped

    monkeypatch.setattr(train, "fit", stop)
    monkeypatch.setattr(train, "_images", lambda *_: (images, images, ""))
    with pytest.raises(Stopped):
        train.pretrain(recipe(**values), tmp_path / "run", device="cpu")
    return seen[0]


@pytest.fixture
def images() -> ArraySet:
    pixels = torch.zeros(16, 3, 32, 32, dtype=torch.uint8)
    return ArraySet("x", "train", pixels, torch.arange(16) % 3, ("a", "b", "c"), 32)


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("width", [1 / 16, 1 / 8])
@pytest.mark.parametrize("mlp", [None, False])
def test_an_encoder_is_built_as_the_recipe_says(
    seed: int, width: float, mlp: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    images: ArraySet,
) -> None:  # fmt: skip
    values = {"arch": "rf29_resnet18", "seed": seed, "width": width, "mlp": mlp}
    method, _ = trained(tmp_path, monkeypatch, images, **values)
    torch.manual_seed(seed_of(seed, "initialisation"))
    expected = train.build_encoder("rf29_resnet18", size=32, width=width, mlp=mlp).state_dict()
    found = method.encoder.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert round(64 * width) == found["conv1.weight"].shape[0]
    assert ("mlp" in " ".join(found)) is (mlp is None)


@pytest.mark.parametrize(
    ("values", "every"),
    [({"epochs": 40}, 4), ({"epochs": 3}, 1), ({"epochs": 40, "monitor_every": 7}, 7)],
)
def test_a_run_is_looked_at_as_often_as_the_recipe_says(
    values: dict[str, Any], every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    images: ArraySet,
) -> None:  # fmt: skip
    _, (probe, watch) = trained(tmp_path, monkeypatch, images, **values)
    assert watch.every == every
    assert (watch.train, watch.validation) == (images, images)
    assert probe.layer.out_features == 3
