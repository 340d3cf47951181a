"""What benchmarks of training share: images, recipe, encoder of contestants, lines of results."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from robustbench_coss import registry
from robustbench_coss.datasets.base import ArraySet
from robustbench_coss.models.checkpoint import build_encoder
from robustbench_coss.pretrain.methods.base import Method
from robustbench_coss.pretrain.recipe import Recipe, build_recipe


def images(count: int, size: int) -> ArraySet:
    """Random pictures with large structures, held in memory."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 8, 8, generator=draw)
    smooth = nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    pixels = (smooth * 255).to(torch.uint8)
    labels = torch.arange(count) % 10
    classes = tuple(map(str, range(10)))
    return ArraySet("benchmark", "train", pixels, labels, classes, size)


def recipe_for(method: str, args: argparse.Namespace, **options: Any) -> Recipe:
    """A run of a method with BYOL's optimiser as lightly publishes it."""
    return build_recipe(
        {
            "method": method,
            "arch": args.arch,
            "width": args.width,
            "size": args.size,
            "batch_size": args.batch,
            "epochs": 100,
            "precision": args.precision,
            "optimizer": {"name": "lars", "lr": 0.45, "weight_decay": 1e-6, "warmup_epochs": 10},
            "options": {"hidden": args.hidden, **options},
        },
        "benchmark",
    )


def build(recipe: Recipe, device: torch.device) -> Method:
    """A method on its device, laid out as in training."""
    torch.manual_seed(0)
    with device:
        encoder = build_encoder(recipe.arch, size=recipe.size or 32, width=recipe.width)
        method: Method = registry.load("method", recipe.method)(encoder, recipe, 10)
    return method.to(device, memory_format=torch.channels_last)


def show(result: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Lines of a nested result."""
    for key, value in result.items():
        if isinstance(value, dict):
            yield from show(value, f"{prefix}{key}.")
        else:
            yield (
                f"{prefix}{key}: {value:.4g}"
                if isinstance(value, float)
                else f"{prefix}{key}: {value}"
            )
