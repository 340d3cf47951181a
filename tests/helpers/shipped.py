"""Recipes that the package ships, and methods built of them."""

from __future__ import annotations

from typing import Any

import torch

from robustbench_coss import registry
from robustbench_coss.models.checkpoint import build_encoder
from robustbench_coss.pretrain.methods.base import Method
from robustbench_coss.pretrain.recipe import (
    Recipe,
    build_recipe,
    merge,
    read_recipe,
)

METHODS = [f"{co}{m}" for m in ("byol", "dino", "mocov3", "simclr") for co in ("", "co-")]
METHODS.append("supervised")
SMALL = {"width": 1 / 16, "epochs": 1, "batch_size": 8, "limit": 8, "precision": "32"}


def shipped(name: str, **changes: Any) -> Recipe:
    return build_recipe(merge(read_recipe(name), changes), name)


def build(recipe: Recipe, size: int, classes: int = 10) -> Method:
    torch.manual_seed(0)
    encoder = build_encoder(recipe.arch, size=size, width=recipe.width)
    method: Method = registry.load("method", recipe.method)(encoder, recipe, classes)
    return method
