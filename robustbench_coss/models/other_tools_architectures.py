"""Which architecture the names and shapes of weights show, and what no weight shows of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from robustbench_coss.errors import CossError
from robustbench_coss.models.other_tools_formats import Format, State, zero_class_position

MOCOV3_HEADS = {192: 12, 384: 12}
"""Attention heads of MoCo v3's ViT-S by embedding (moco-v3/vits.py), and of the ViT-Ti that
solo-learn adds (solo/backbones/vit/vit_mocov3.py). timm's have 3 and 6, with the same weights."""

RESNETS = {
    # blocks per stage, has bottlenecks, shape of layer1.0.conv2's weight: torchvision's name
    ((2, 2, 2, 2), False, (64, 64)): "resnet18",
    ((3, 4, 6, 3), False, (64, 64)): "resnet34",
    ((3, 4, 6, 3), True, (64, 64)): "resnet50",
    ((3, 4, 23, 3), True, (64, 64)): "resnet101",
    ((3, 8, 36, 3), True, (64, 64)): "resnet152",
    ((3, 4, 6, 3), True, (128, 128)): "wide_resnet50_2",
    ((3, 4, 23, 3), True, (128, 128)): "wide_resnet101_2",
    ((3, 4, 6, 3), True, (128, 4)): "resnext50_32x4d",
    ((3, 4, 23, 3), True, (256, 8)): "resnext101_32x8d",
    ((3, 4, 23, 3), True, (256, 4)): "resnext101_64x4d",
}

OWN_CIFAR = ("resnet18", "resnet50")
"""Registered encoders that have the CIFAR stem for small images."""

VITS = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large"}
"""timm's name of a ViT by embedding and depth (Dosovitskiy et al. 2021; Touvron et al. 2021)."""

SIZE, CIFAR_SIZE = 224, 32


def features_of(state: State) -> int | None:
    """Features that a ResNet or a ViT gives."""
    if "norm.weight" in state:
        return len(state["norm.weight"])
    for norm in ("bn3", "bn2"):
        value = state.get(f"layer4.0.{norm}.weight")
        if value is not None:
            return len(value)
    return None


def kernel_of(state: State) -> int | None:
    """Kernel side of a ResNet's first convolution."""
    weight = state.get("conv1.weight")
    return weight.shape[-1] if weight is not None and weight.dim() == 4 else None


def infer_architecture(state: State) -> str | None:
    """The architecture that names and shapes settle, or None."""
    if "patch_embed.proj.weight" in state:
        return _infer_vit(state)
    stem, inner = state.get("conv1.weight"), state.get("layer1.0.conv2.weight")
    if stem is None or inner is None or stem.dim() != 4 or inner.dim() != 4:
        return None
    counts = tuple(
        len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")})
        for stage in range(1, 5)
    )
    bottleneck = "layer1.0.conv3.weight" in state
    name = RESNETS.get((cast(Any, counts), bottleneck, cast(Any, tuple(inner.shape[:2]))))
    if name is None or tuple(stem.shape[:2]) != (64, 3):
        return None
    if stem.shape[-1] == 3:
        return name if name in OWN_CIFAR else None
    return f"torchvision:{name}" if stem.shape[-1] == 7 else None


def _infer_vit(state: State) -> str | None:
    patch, hidden = state["patch_embed.proj.weight"], state.get("blocks.0.mlp.fc1.weight")
    positions = state.get("pos_embed")
    if patch.dim() != 4 or hidden is None or positions is None or "cls_token" not in state:
        return None
    dim = patch.shape[0]
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    name = VITS.get((dim, depth))
    plain = hidden.shape[0] == 4 * dim and "blocks.0.ls1.gamma" not in state
    if name is None or not plain or patch.shape[1] != 3 or patch.shape[-1] not in (8, 16, 32):
        return None
    return f"timm:vit_{name}_patch{patch.shape[-1]}_224"


def size_of(state: State, export: Mapping[str, Any]) -> int:
    """Image side in px: as the export or the grid of position embeddings says, else by the stem."""
    stated = export.get("size")
    if isinstance(stated, int) and stated > 0:
        return stated
    positions, patch = state.get("pos_embed"), state.get("patch_embed.proj.weight")
    if positions is not None and positions.dim() == 3 and patch is not None:
        side = round((positions.shape[1] - 1) ** 0.5)
        if side**2 + 1 == positions.shape[1]:
            return int(side * patch.shape[-1])
    return CIFAR_SIZE if kernel_of(state) == 3 else SIZE


def heads_of(
    path: Path, form: Format, content: dict[str, Any], state: State, arch: str | None
) -> int | None:
    """Attention heads where they are not those of timm's model of the same shapes.

    Raises:
        CossError: a plain file that may be MoCo v3's or not.
    """
    if not zero_class_position(state):
        return None
    heads = MOCOV3_HEADS.get(state["pos_embed"].shape[-1])
    if heads is None or form.name in ("mocov3", "mmpretrain"):
        return heads  # mmpretrain/models/selfsup/mocov3.py: `mocov3-small`
    if form.name == "solo-learn":  # its MAE has such positions too, and a decoder
        names = content["state_dict"]
        return None if any(key.startswith("decoder.") for key in names) else heads
    if form.name == "torchvision" and arch is None:
        raise CossError(
            f"{path} has fixed position embeddings as MoCo v3's, which has {heads} attention heads "
            "where timm's model has fewer; pass --format mocov3, or --arch timm:NAME if it is not"
        )
    return None
