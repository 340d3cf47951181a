"""ResNets of any depth and width by the shapes of their weights, and stems that no weight shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from robustbench_coss.encoders.timm_models import timm_module
from robustbench_coss.errors import CossError
from robustbench_coss.models.other_tools.tree import State

NAMES: dict[tuple[tuple[int, ...], bool], str] = {
    # blocks per stage, has bottlenecks: He et al. 2016, table 1
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
WIDER: dict[tuple[str, tuple[int, ...]], str] = {
    # the name without groups and with the shape of layer1.0.conv2's weight: torchvision's name
    ("resnet50", (128, 128)): "wide_resnet50_2",
    ("resnet101", (128, 128)): "wide_resnet101_2",
    ("resnet50", (128, 4)): "resnext50_32x4d",
    ("resnet101", (256, 8)): "resnext101_32x8d",
    ("resnet101", (256, 4)): "resnext101_64x4d",
}


@dataclass(frozen=True)
class Stem:
    """What a ResNet's first convolution does that its weights do not show.

    Attributes:
        stride, padding: of the convolution, in px.
        pool: whether max pooling of 3×3 with stride 2 follows.
    """

    stride: int
    padding: int
    pool: bool

    def __str__(self) -> str:
        return f"stride={self.stride},padding={self.padding},pool={'max' if self.pool else 'none'}"


def usual_stem(kernel: int) -> Stem:
    """torchvision's for 7×7; else that of ResNets for small images."""
    return Stem(2, 3, pool=True) if kernel == 7 else Stem(1, kernel // 2, pool=False)


def stem_of(text: str, usual: Stem) -> Stem:
    """A stem as `--stem` takes it, in whole or in part: `stride=1,padding=2,pool=none`.

    Raises:
        CossError: written in another way.
    """
    known = {"stride": usual.stride, "padding": usual.padding, "pool": usual.pool}
    for part in text.split(","):
        key, _, value = (word.strip() for word in part.partition("="))
        if key == "pool" and value in ("max", "none"):
            known["pool"] = value == "max"
        elif key in ("stride", "padding") and re.fullmatch(r"\d{1,2}", value):
            known[key] = int(value)
        else:
            raise CossError(
                f"--stem {text} is not understood at {part!r}; write stride=N,padding=N,pool=max "
                "or pool=none, or some of these"
            )
    if known["stride"] < 1:
        raise CossError(f"--stem {text}: the stride must be at least 1")
    return Stem(known["stride"], known["padding"], bool(known["pool"]))


def set_stem(module: Any, stem: Stem) -> None:
    """Give a ResNet a stem's stride, padding and pooling."""
    module.conv1.stride = (stem.stride, stem.stride)
    module.conv1.padding = (stem.padding, stem.padding)
    pool: Any = nn.MaxPool2d(3, stride=2, padding=1) if stem.pool else nn.Identity()
    module.maxpool = pool


def shape_of(state: State) -> tuple[str, int] | None:
    """Name and features of the ResNet that weights show, or None if they are of no plain one."""
    stem, inner = state.get("conv1.weight"), state.get("layer1.0.conv2.weight")
    if stem is None or inner is None or stem.dim() != 4 or inner.dim() != 4 or stem.shape[1] != 3:
        return None
    bottleneck = "layer1.0.conv3.weight" in state
    counts = tuple(block_count(state, stage) for stage in (1, 2, 3, 4))
    if 0 in counts[:3] or stem.shape[-1] not in (3, 5, 7) or "bn1.running_var" not in state:
        return None
    channels = len(stem)
    for stage, count in enumerate(counts, start=1):
        for number in range(count):
            name = f"layer{stage}.{number}."
            if not _is_plain(state, name, bottleneck, channels, moves=stage > 1 and number == 0):
                return None
            channels = outputs_of(state, name)
    name = NAMES.get((counts, bottleneck), f"resnet[{'-'.join(map(str, counts))}]")
    wider = WIDER.get((name, tuple(inner.shape[:2])))
    if wider is not None and len(stem) == 64:
        return wider, channels
    times = len(stem) / 64
    own = tuple(inner.shape[:2]) == (len(stem), len(stem))
    return (name if times == 1 and own else f"{name}×{times:g}"), channels


def usual_name(state: State) -> str | None:
    """The name of the ResNet whose blocks are there, though tensors may be missing."""
    counts = tuple(
        len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")})
        for stage in (1, 2, 3, 4)
    )
    return NAMES.get((counts, "layer1.0.conv3.weight" in state))


def block_count(state: State, stage: int) -> int:
    """Blocks of a stage, numbered without a gap."""
    number = 0
    while f"layer{stage}.{number}.conv1.weight" in state:
        number += 1
    return number


def outputs_of(state: State, name: str) -> int:
    """Channels that a block gives."""
    last = state.get(f"{name}conv3.weight", state.get(f"{name}conv2.weight"))
    assert last is not None
    return len(last)


def _is_plain(state: State, name: str, bottleneck: bool, channels: int, moves: bool) -> bool:
    """Whether a block is a ResNet's: kernels, and a projection where sizes change."""
    sides = (1, 3, 1) if bottleneck else (3, 3)
    for number, side in enumerate(sides, start=1):
        weight = state.get(f"{name}conv{number}.weight")
        if weight is None or weight.dim() != 4 or weight.shape[-1] != side:
            return False
        if f"{name}bn{number}.running_var" not in state:
            return False
    if (f"{name}conv3.weight" in state) != bottleneck:
        return False
    changes = moves or outputs_of(state, name) != channels
    return not changes or f"{name}downsample.0.weight" in state


# ---- CLIP's ----


def clip_shape(state: State) -> tuple[tuple[int, ...], int, int] | None:
    """Blocks per stage, channels of the stem and side in px of CLIP's ResNet in timm's names."""
    stem, places = state.get("stem.conv3.conv.weight"), state.get("head.pos_embed")
    if stem is None or places is None or places.dim() != 2 or "head.proj.weight" not in state:
        return None
    counts = []
    for stage in range(4):
        number = 0
        while f"stages.{stage}.{number}.conv1_1x1.conv.weight" in state:
            number += 1
        counts.append(number)
    return tuple(counts), len(stem), 32 * round((len(places) - 1) ** 0.5)


def build_clip_resnet(state: State) -> nn.Module:
    """timm's network of these shapes, from normalised pixels to CLIP's embedding.

    Raises:
        CossError: timm is not installed.
    """
    shape = clip_shape(state)
    assert shape is not None
    counts, width, side = shape
    net = timm_module("models.byobnet", "a ResNet of CLIP")
    blocks = tuple(
        net.ByoBlockCfg(type="bottle", d=count, c=4 * width * 2**i, s=1 if i == 0 else 2, br=0.25)
        for i, count in enumerate(counts)
    )
    config = net.ByoModelCfg(
        blocks=blocks,
        stem_chs=(width // 2, width // 2, width),
        stem_type="",
        stem_pool="avg2",
        downsample="avg",
        aa_layer="avg",
        head_type="attn_abs",
    )
    made: nn.Module = net.ByobNet(config, num_classes=len(state["head.proj.weight"]), img_size=side)
    return made
