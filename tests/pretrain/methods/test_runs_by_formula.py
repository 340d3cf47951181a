"""What a run hands to its views and its optimiser at each step, against formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers.small_methods import SMALL
from torch.utils.data import DataLoader

from robustbench_coss import registry
from robustbench_coss.models.checkpoint import build_encoder
from robustbench_coss.pretrain.data import TrainingBatch
from robustbench_coss.pretrain.loop import quieten_lightning
from robustbench_coss.pretrain.methods import base
from robustbench_coss.pretrain.methods.base import Method
from robustbench_coss.pretrain.recipe import build_recipe
from robustbench_coss.pretrain.views import ViewOptions

STEPS = 3  # of an epoch
END = 0.001  # of the peak: where lightly's CosineWarmupScheduler ends


class Rates(pl.Callback):
    """The learning rates of all groups, step by step."""

    def __init__(self) -> None:
        self.seen: list[set[float]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.seen.append({group["lr"] for group in trainer.optimizers[0].param_groups})


def trained(name: str, **values: Any) -> tuple[Method, list[set[float]]]:
    kind: type[Method] = registry.load("method", name)
    options = {key: value for key, value in SMALL.items() if key in kind.Options.model_fields}
    recipe = build_recipe({"method": name, "options": options, "batch_size": 4} | values, "test")
    torch.manual_seed(0)
    method = kind(build_encoder("rf9_resnet18", size=32, width=1 / 16), recipe, 3)
    data = [
        TrainingBatch(
            torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8),
            torch.arange(4) % 3,
            [4 * number + i for i in range(4)],
        )
        for number in range(STEPS)
    ]
    rates = Rates()
    quieten_lightning()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=recipe.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[rates],
    )
    trainer.fit(method, DataLoader(data, batch_size=None))  # type: ignore[arg-type]
    return method, rates.seen


@pytest.mark.parametrize("warmup", [0, 1, 2])
def test_the_learning_rate_follows_one_cosine_over_all_epochs(warmup: int) -> None:
    epochs, lr = 4, 0.3
    _, seen = trained("simclr", epochs=epochs, optimizer={"lr": lr, "warmup_epochs": warmup})
    total, first = epochs * STEPS, warmup * STEPS
    assert len(seen) == total
    peak = lr * 4 / 256  # Goyal et al. 2017: linear in the batch
    for step, rates in enumerate(seen):
        if step < first:  # from peak / steps of the warm-up, linearly
            wanted = peak * (step + 1) / first
        else:  # Loshchilov and Hutter 2017, equation 5
            share = (1 + math.cos(math.pi * (step - first) / (total - first - 1))) / 2
            wanted = peak * (END + (1 - END) * share)
        assert list(rates) == pytest.approx([wanted], abs=1e-12), step


@pytest.mark.parametrize("name", ["byol", "byol-mc", "dino-mc"])
def test_views_are_asked_for_as_the_recipe_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    real = base.make_views

    def noted(*given: Any) -> Any:
        names = ("images", "index", "seed", "epoch", "count", "options", "local_count", "small")
        asked.append(dict(zip(names, given, strict=True)))
        return real(*given)

    monkeypatch.setattr(base, "make_views", noted)
    views = {"min_crop": 0.4, "flip": 0.0, "local_crops": 3, "local_size": 16, "grey": 1.0}
    trained(name, epochs=2, seed=6, views=views)
    assert [call["epoch"] for call in asked] == [0] * STEPS + [1] * STEPS
    for number, call in enumerate(asked):
        assert call["options"] == ViewOptions(**views)
        assert (call["seed"], call["count"]) == (6, 2)
        assert call["local_count"] == (3 if name.endswith("-mc") else 0)
        assert call["index"] == [4 * (number % STEPS) + i for i in range(4)]
        assert call["small"] is None


@pytest.mark.parametrize("name", ["byol-mc", "dino-mc"])
def test_small_views_reach_the_loss(name: str) -> None:
    method, _ = trained(name, epochs=1, views={"local_crops": 3, "local_size": 16})
    sizes: list[tuple[int, ...]] = []
    encode = method.encode

    def noted(views: list[torch.Tensor]) -> Any:
        sizes.extend(tuple(view.shape) for view in views)
        return encode(views)

    method.encode = noted  # type: ignore[method-assign]
    batch = TrainingBatch(
        torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8),
        torch.zeros(4).long(),
        [0, 1, 2, 3],
    )
    method.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    method.training_step(batch, 0)
    assert sizes == [(4, 3, 32, 32)] * 2 + [(4, 3, 16, 16)] * 3
