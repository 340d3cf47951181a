"""Methods on the smallest encoder, and views for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from robustbench_coss.encoders.base import Encoder
from robustbench_coss.models.checkpoint import build_encoder
from robustbench_coss.pretrain.methods.base import Method, ViewOutputs
from robustbench_coss.pretrain.recipe import build_recipe

SMALL = {"hidden": 16, "dim": 8, "bottleneck": 8, "prototypes": 12}


def build(method: type[Method], encoder: Encoder | None = None, **options: Any) -> Method:
    """A small method with fixed weights."""
    sizes = {key: value for key, value in SMALL.items() if key in method.Options.model_fields}
    recipe = build_recipe({"options": sizes | options}, "test")
    torch.manual_seed(0)
    encoder = encoder or build_encoder("rf29_resnet18", size=32, width=1 / 16)
    return method(encoder, recipe, 3)


def views(seed: int = 0, count: int = 2, side: int = 32) -> list[Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return [torch.rand(6, 3, side, side, generator=draws) for _ in range(count)]


def encoded(method: Method, given: list[Tensor] | None = None) -> ViewOutputs:
    images = given or views()[: method.views]
    return replace(method.encode(images), labels=torch.arange(6) % 3)


def gradients(method: Method, loss: Tensor) -> dict[str, Tensor | None]:
    method.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in method.encoder.named_parameters()}
