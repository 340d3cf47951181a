"""ViT, Swin and ConvNeXt by the shapes of their weights, built from timm's classes."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from torch import Tensor, nn

from robustbench_coss.encoders.timm_models import in_timm, timm_module
from robustbench_coss.errors import CossError
from robustbench_coss.models.other_tools.tree import State

VITS = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large"}
VITS |= {(1280, 32): "huge", (1536, 40): "giant"}
"""Usual name of a ViT by channels and depth (Dosovitskiy et al. 2021; Touvron et al. 2021)."""

CONVNEXTS: dict[tuple[tuple[int, ...], int], str] = {
    ((3, 3, 9, 3), 96): "tiny",
    ((3, 3, 27, 3), 96): "small",
    ((3, 3, 27, 3), 128): "base",
    ((3, 3, 27, 3), 192): "large",
}
"""torchvision's name of a ConvNeXt by depths and channels (Liu et al. 2022)."""


NEEDED_BY = "what builds this architecture"


def side_of(state: State) -> int | None:
    """Positions along a side of a ViT's grid; None if they form no square."""
    positions = state["pos_embed"]
    tokens = sum(
        state[name].shape[1]
        for name in ("cls_token", "reg_token", "dist_token")
        if name in state and state[name].dim() == 3
    )
    for count in (positions.shape[1] - tokens, positions.shape[1]):
        side = round(max(count, 0) ** 0.5)
        if side and side * side == count:
            return int(side)
    return None


def is_vit(state: State) -> bool:
    """Whether weights in timm's names are of a plain ViT with positions."""
    patch, positions = state.get("patch_embed.proj.weight"), state.get("pos_embed")
    if patch is None or positions is None or patch.dim() != 4 or positions.dim() != 3:
        return False
    plain = "blocks.0.mlp.fc1.weight" in state and "blocks.0.attn.qkv.weight" in state
    return plain and patch.shape[1] == 3 and side_of(state) is not None


def depth_of(state: State) -> int:
    """Blocks of a ViT."""
    return len({key.split(".")[1] for key in state if key.startswith("blocks.")})


def vit_name(state: State) -> str:
    """What a ViT is called: timm's name where there is one of its channels, depth and patch."""
    patch = state["patch_embed.proj.weight"]
    dim, depth = len(patch), depth_of(state)
    name = VITS.get((dim, depth), f"{dim}x{depth}")
    full = f"vit_{name}_patch{patch.shape[-1]}"
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    full += f"_reg{registers}" if registers else ""
    gated = state["blocks.0.mlp.fc1.weight"].shape[0] != 4 * dim
    plain = (
        not registers
        and not gated
        and "cls_token" in state
        and not {"blocks.0.ls1.gamma", "norm_pre.weight", "dist_token"} & state.keys()
    )
    return f"timm:{full}_224" if plain and in_timm(f"{full}_224") else full


def head_width(dim: int, heads: int) -> int:
    """Channels of each head of attention.

    Raises:
        CossError: they do not share out.
    """
    if dim % heads:
        raise CossError(f"--heads {heads} does not divide the {dim} channels of its tokens")
    return dim // heads


def build_vit(
    state: State,
    size: int,
    classes: int | None,
    *,
    heads: int,
    pooling: str,
    quick: bool,
    eps: float,
) -> nn.Module:
    """timm's VisionTransformer of these shapes.

    Args:
        state: weights in timm's names.
        size: image side in px, a multiple of the patch.
        classes: of the classifier; None for none.
        heads: of attention.
        pooling: "class", "mean", "both" (built as "class") or "attention".
        quick: whether its GELU is x·σ(1.702 x), as OpenAI's CLIP has.
        eps: of its layer norms.

    Raises:
        CossError: timm is not installed, or cannot build it.
    """
    vits = timm_module("models.vision_transformer", NEEDED_BY)
    patch, hidden = state["patch_embed.proj.weight"], state["blocks.0.mlp.fc1.weight"]
    dim, registers = len(patch), state.get("reg_token")
    head_width(dim, heads)  # refuses heads that do not fit
    second = state["blocks.0.mlp.fc2.weight"]
    gated = second.shape[1] * 2 == hidden.shape[0]
    tokens = [name for name in ("cls_token", "reg_token", "dist_token") if name in state]
    side = side_of(state)
    assert side is not None
    alone = state["pos_embed"].shape[1] == side**2
    options: dict[str, Any] = {
        "img_size": size,
        "patch_size": tuple(patch.shape[2:]),
        "num_classes": classes or 0,
        "embed_dim": dim,
        "depth": depth_of(state),
        "num_heads": heads,
        "mlp_ratio": hidden.shape[0] / dim,
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "qk_norm": "blocks.0.attn.q_norm.weight" in state,
        "init_values": 1.0 if "blocks.0.ls1.gamma" in state else None,
        "class_token": "cls_token" in state,
        "no_embed_class": alone and bool(tokens),
        "reg_tokens": 0 if registers is None else registers.shape[1],
        "pre_norm": "norm_pre.weight" in state,
        "fc_norm": "fc_norm.weight" in state,
        "final_norm": bool({"norm.weight", "fc_norm.weight"} & state.keys()),
        "global_pool": {"mean": "avg", "attention": "map"}.get(pooling, "token"),
        "weight_init": "skip",
    }
    if quick:
        options["act_layer"] = "quick_gelu"
    if gated:
        options |= {"mlp_layer": timm_module("layers").SwiGLUPacked, "act_layer": nn.SiLU}
    options["norm_layer"] = partial(nn.LayerNorm, eps=eps)
    kind: Any = vits.VisionTransformer
    if "dist_token" in state:
        kind = timm_module("models.deit", NEEDED_BY).VisionTransformerDistilled
    made: nn.Module = kind(**options)
    return made


# ---- Swin ----

TABLE = "attn.relative_position_bias_table"


def is_swin(state: State) -> bool:
    """Whether weights in timm's names are of a Swin (v1)."""
    return "patch_embed.proj.weight" in state and f"layers.0.blocks.0.{TABLE}" in state


def swin_shape(state: State) -> tuple[list[int], list[int], int, int, int]:
    """Depths, heads, window, patch and channels."""
    stages = sorted({int(m[1]) for key in state if (m := re.match(r"layers\.(\d+)\.blocks", key))})
    depths = [
        len({k.split(".")[3] for k in state if k.startswith(f"layers.{stage}.blocks.")})
        for stage in stages
    ]
    tables = [state[f"layers.{stage}.blocks.0.{TABLE}"] for stage in stages]
    window = (round(tables[0].shape[0] ** 0.5) + 1) // 2
    patch = state["patch_embed.proj.weight"]
    return depths, [table.shape[1] for table in tables], window, patch.shape[-1], len(patch)


def swin_size(mask: Tensor | None, window: int, patch: int) -> int | None:
    """Image side by the mask of shifted windows [N, w², w²]: the first stage has √N a side."""
    if mask is None:
        return None
    side = round(len(mask) ** 0.5)
    return int(side * window * patch) if side * side == len(mask) else None


def build_swin(state: State, size: int, classes: int | None) -> nn.Module:
    """timm's SwinTransformer of these shapes."""
    depths, heads, window, patch, dim = swin_shape(state)
    made: nn.Module = timm_module("models.swin_transformer", NEEDED_BY).SwinTransformer(
        img_size=size,
        patch_size=patch,
        embed_dim=dim,
        depths=depths,
        num_heads=heads,
        window_size=window,
        num_classes=classes or 0,
    )
    return made


# ---- ConvNeXt ----


def is_convnext(state: State) -> bool:
    """Whether weights in timm's names are of a ConvNeXt."""
    return "stem.0.weight" in state and "stages.0.blocks.0.conv_dw.weight" in state


def convnext_shape(state: State) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Depths and channels of the stages."""
    stages = sorted({key.split(".")[1] for key in state if key.startswith("stages.")})
    depths = tuple(
        len({k.split(".")[3] for k in state if k.startswith(f"stages.{stage}.blocks.")})
        for stage in stages
    )
    dims = tuple(len(state[f"stages.{stage}.blocks.0.conv_dw.weight"]) for stage in stages)
    return depths, dims


def build_convnext(state: State, size: int, classes: int | None) -> nn.Module:
    """timm's ConvNeXt of these shapes, v1 or v2."""
    depths, dims = convnext_shape(state)
    made: nn.Module = timm_module("models.convnext", NEEDED_BY).ConvNeXt(
        depths=depths,
        dims=dims,
        patch_size=state["stem.0.weight"].shape[-1],
        kernel_sizes=state["stages.0.blocks.0.conv_dw.weight"].shape[-1],
        ls_init_value=1.0 if "stages.0.blocks.0.gamma" in state else None,
        use_grn="stages.0.blocks.0.mlp.grn.weight" in state,
        conv_mlp=state["stages.0.blocks.0.mlp.fc1.weight"].dim() == 4,
        num_classes=classes or 0,
    )
    return made


def torchvision_convnext(state: State) -> str | None:
    """torchvision's name of a ConvNeXt whose tensors have its names."""
    first, block = state.get("features.0.0.weight"), state.get("features.1.0.block.0.weight")
    if first is None or block is None:
        return None
    depths = tuple(
        len({k.split(".")[2] for k in state if re.match(rf"features\.{stage}\.\d+\.block", k)})
        for stage in (1, 3, 5, 7)
    )
    name = CONVNEXTS.get((depths, len(first)))
    return name and f"convnext_{name}"
