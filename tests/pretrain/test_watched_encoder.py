"""Which network is watched during training, in which mode, and how it is left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.small_methods import build
from torch import nn

from robustbench_coss import registry
from robustbench_coss.datasets.base import ArraySet
from robustbench_coss.pretrain import monitors
from robustbench_coss.pretrain.monitors import Look, Watch, look_at

CPU = torch.device("cpu")


def images(role: str, count: int = 24) -> ArraySet:
    draws = torch.Generator().manual_seed(len(role))
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=draws)
    return ArraySet("x", role, pixels, torch.arange(count) % 3, ("a", "b", "c"), 32)


@pytest.mark.parametrize(
    ("name", "network"),
    [("byol", "encoder"), ("co-simclr", "encoder"), ("dino", "target_encoder"),
     ("co-dino", "target_encoder"), ("mocov3", "encoder")],
)  # fmt: skip
def test_what_is_exported_is_watched(
    name: str, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method: Any = build(registry.load("method", name))
    seen: list[tuple[Any, ...]] = []

    def look(encoder: nn.Module, device: Any, train: Any, validation: Any) -> Look:
        seen.append((encoder, train, validation))
        return Look(0.5, 9.0)

    monkeypatch.setattr(monitors, "look_at", look)
    logged: dict[str, float] = {}
    method.log = lambda key, value, **_: logged.update({key: float(value)})
    train, validation = images("train"), images("validation")
    watch = Watch(train, validation, 2)
    for epoch in range(5):
        trainer: Any = SimpleNamespace(callback_metrics={}, current_epoch=epoch, max_epochs=5)
        watch.on_train_epoch_end(trainer, method)
    assert len(seen) == 3  # after epochs 2, 4 and the last
    for encoder, *roles in seen:
        assert encoder is getattr(method, network)
        assert roles == [train, validation]
    assert encoder is method.exported_encoder()
    assert logged == {"validation/knn_top1": 0.5, "train/effective_rank": 9.0}


@pytest.mark.parametrize("training", [True, False])
def test_a_look_is_in_evaluation_mode_and_leaves_the_encoder_as_it_was(training: bool) -> None:
    method = build(registry.load("method", "byol"))
    encoder = method.encoder
    modes: list[bool] = []
    encoder.register_forward_hook(lambda module, *_: modes.append(module.training))
    encoder.train(training)
    state = {key: value.clone() for key, value in encoder.state_dict().items()}
    found = look_at(encoder, CPU, images("train"), images("validation"), bank=20, queries=10)
    assert 0 <= found.knn_top1 <= 1
    assert modes
    assert not any(modes)
    assert encoder.training is training
    assert all(torch.equal(value, state[key]) for key, value in encoder.state_dict().items())
