"""Linear classifiers that other tools train on frozen features and save in files of their own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from robustbench_coss.errors import CossError
from robustbench_coss.models.other_tools.opening import read_file
from robustbench_coss.models.other_tools.read import Foreign
from robustbench_coss.models.other_tools.tree import State, Tree
from robustbench_coss.models.tensors import ordinary

NAMES = re.compile(
    # dino and swav eval_linear.py; moco main_lincls.py and others; mae main_linprobe.py;
    # solo-learn linear.py; dinov2 eval/linear.py
    r"(.*\.)?(linear|fc|head|head\.1|head\.fc|classifier|heads\.head)\.weight|weight"
)
BATCH_NORM = 1e-6
"""ε of the batch norm, without weights, before MAE's linear probe (mae/main_linprobe.py)."""

INTERLEAVED = ("dino", "ibot")
"""Whose eval_linear.py puts each channel of the mean behind that of the class token; DINOv2 puts
the whole mean behind the whole token."""


@dataclass(frozen=True)
class Head:
    """A classifier [B, D] -> [B, K].

    Attributes:
        layer: in eval mode.
        classes: K.
    """

    layer: nn.Module
    classes: int


def read_head(path: Path, file: Foreign, dim: int) -> Head:
    """The linear classifier in a file, for the features of an encoder.

    Args:
        path: what `--head` names.
        file: the encoder.
        dim: D of its features.

    Raises:
        CossError: the file holds none or several, or one for other features.
    """
    content, export = read_file(path)
    found: list[tuple[str, State]] = []
    for state in Tree(content, export).states.values():
        found += [(k, state) for k, v in state.items() if NAMES.fullmatch(k) and v.dim() == 2]
    if not found:
        raise CossError(f"{path} holds no linear classifier; pass the file that --head means")
    fitting = [(key, state) for key, state in found if state[key].shape[1] == dim]
    if not fitting:
        key, state = found[0]
        raise CossError(_misfit(path, key, state[key], file, dim))
    if len(fitting) > 1:
        names = ", ".join(key for key, _ in fitting[:5])
        raise CossError(
            f"{path} holds several classifiers of {dim} features ({names}); save one alone"
        )
    key, state = fitting[0]
    start = key.removesuffix("weight")
    tensors = ordinary({k: v for k, v in state.items() if k.startswith(start[:-2])}, path)
    weight, bias = tensors[key].float(), tensors.get(f"{start}bias")
    if file.pooling == "both" and file.format in INTERLEAVED:
        weight = torch.cat([weight[:, 0::2], weight[:, 1::2]], dim=1)
    classes = len(weight)
    linear = nn.Linear(dim, classes)
    linear.load_state_dict(
        {"weight": weight, "bias": torch.zeros(classes) if bias is None else bias.float()}
    )
    before = _batch_norm(tensors, start, dim)
    layer: nn.Module = linear if before is None else nn.Sequential(before, linear)
    return Head(layer.eval(), classes)


def _batch_norm(state: State, start: str, dim: int) -> nn.Module | None:
    """The batch norm before MAE's probe, which is child 0 of a Sequential, the layer child 1."""
    if not start.endswith("head.1."):
        return None
    outer = start.removesuffix("1.")
    mean, variance = (state.get(f"{outer}0.running_{part}") for part in ("mean", "var"))
    if mean is None or variance is None:
        return None
    norm = nn.BatchNorm1d(dim, eps=BATCH_NORM, affine=False)
    norm.load_state_dict({"running_mean": mean, "running_var": variance}, strict=False)
    return norm


def _misfit(path: Path, key: str, weight: Tensor, file: Foreign, dim: int) -> str:
    """Why a classifier does not fit, and what it may be for."""
    wanted = weight.shape[1]
    why = "pass the classifier that was trained on this encoder"
    if file.heads is not None and wanted == 2 * dim and file.pooling != "both":
        why = "it may read the class token and the mean of the patches: pass --pooling both"
    elif file.heads is not None and wanted % dim == 0:
        why = (
            f"it may read the class tokens of the last {wanted // dim} blocks (n_last_blocks), "
            "which are not measured here: train one on the last block alone, or leave out --head "
            "for a probe"
        )
    return (
        f"{path}: its classifier {key.removesuffix('.weight')} reads {wanted} features, and "
        f"{file.arch} gives {dim}; {why}"
    )
