"""What the settings and the values in a file tell beside the shapes of its weights."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor

from robustbench_coss.models.other_tools.format import Colours
from robustbench_coss.models.other_tools.tree import State, Tree

LEFTOVER = 1000
"""Classes of a library's classifier that nobody trained."""


def untouched(weight: Tensor, bias: Tensor | None) -> bool:
    """Whether a library's classifier of 1000 classes still has its initial values.

    PyTorch draws those of a linear layer evenly within ±1/√D, D inputs; ViTs begin with zeros. A
    trained layer has left these bounds, or their distribution.
    """
    if len(weight) != LEFTOVER or weight.is_meta or weight.layout != torch.strided:
        return False
    values = weight.float()
    if not bool(values.any()):
        return True
    bound = float(weight.shape[1] ** -0.5)
    inside = bool(values.abs().max() <= bound) and (bias is None or bool(bias.abs().max() <= bound))
    return inside and abs(float(values.std()) * 3**0.5 / bound - 1) < 0.01


def three(mean: Any, std: Any, scale: float = 1) -> Colours | None:
    """Three numbers each, divided by `scale`; None if they are not."""
    for values in (mean, std):
        if not (
            isinstance(values, (list, tuple))
            and len(values) == 3
            and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
        ):
            return None
    made = [tuple(round(float(v) / scale, 8) for v in values) for values in (mean, std)]
    return None if 0.0 in made[1] else cast("Colours", tuple(made))


def mmengine(tree: Tree) -> Colours | None:
    """What mmengine's configuration in `meta.cfg` normalises with, in units of [0, 255]."""
    meta = tree.content.get("meta")
    text = meta.get("cfg") if isinstance(meta, Mapping) else None
    if not isinstance(text, str):
        return None
    with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call):
                continue
            said = {k.arg: k.value for k in node.keywords}
            if {"mean", "std"} <= said.keys():
                pair = [ast.literal_eval(said[key]) for key in ("mean", "std")]
                if (found := three(pair[0], pair[1], 255)) is not None:
                    return found
    return None


def eps_of(raw: State, state: State) -> float:
    """ε of the layer norms of a ViT: CLIP's 1e-5, transformers' ViT and MAE 1e-12, others' 1e-6."""
    if "norm_pre.weight" in state:
        return 1e-5
    own = any(".layernorm_before." in key for key in raw) and "cls_token" in state
    return 1e-12 if own else 1e-6
