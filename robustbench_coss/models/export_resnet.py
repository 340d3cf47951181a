"""Encoders as ordinary ResNets: weights in torchvision's names, and Python that builds the network.

A field is made small by kernels of 1×1 in place of 3×3; those are 3×3 kernels that are zero around
the centre.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from robustbench_coss.encoders.base import Encoder
from robustbench_coss.encoders.resnet import (
    RESNET18,
    RESNET50,
    STAGE_STRIDES,
    Block,
    Layout,
    ResNet,
)

NAMES = {RESNET18: "resnet18", RESNET50: "resnet50"}
"""What torchvision and timm call these layouts."""

PLANES = (64, 128, 256, 512)
"""Inner channels of the four stages at width 1 (He et al. 2016, table 1)."""


def layout_of(encoder: Encoder) -> Layout | None:
    """The layout of an encoder that is an ordinary ResNet but for kernels, width and MLP.

    None for anything else, such as a BagNet: it has another stem and other strides.
    """
    if type(encoder) is not ResNet or not isinstance(encoder.conv1, nn.Conv2d):
        return None  # a subclass may compute something else
    blocks = [_first(stage) for stage in _stages(encoder)]
    strides = [(b.conv2 if b.bottleneck else b.conv1).stride[0] for b in blocks]
    if strides != list(STAGE_STRIDES):
        return None
    counts = cast(tuple[int, int, int, int], tuple(len(stage) for stage in _stages(encoder)))
    layout = Layout(counts, blocks[0].bottleneck)
    return layout if layout in NAMES else None


def _stages(encoder: ResNet) -> tuple[nn.Sequential, ...]:
    return encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4


def _first(stage: nn.Sequential) -> Block:
    return cast(Block, stage[0])


def planes_of(encoder: ResNet) -> tuple[int, ...]:
    """Inner channels of the four stages."""
    return tuple(_first(stage).bn1.num_features for stage in _stages(encoder))


def one_by_one_keys(encoder: ResNet) -> set[str]:
    """Keys of the 1×1 weights that are 3×3 in an ordinary ResNet."""
    inner = ("conv2",) if _first(encoder.layer1).bottleneck else ("conv1", "conv2")
    keys = set()
    for key, weight in encoder.state_dict().items():
        if key.startswith("layer") and key.split(".")[2] in inner and weight.shape[-1] == 1:
            keys.add(key)
    return keys


def resnet_state(encoder: ResNet) -> dict[str, Tensor]:
    """State dict of an ordinary ResNet, in torchvision's names, with the same features.

    A 1×1 convolution is the 3×3 one, padded by 1, whose kernel is zero around its centre, with any
    stride. The MLP after pooling takes the place of the classifier, `fc`.
    """
    one_by_one = one_by_one_keys(encoder)
    state = {}
    for key, value in encoder.state_dict().items():
        if key in one_by_one:
            value = nn.functional.pad(value, (1, 1, 1, 1))
        name = f"fc.{key.removeprefix('mlp.')}" if key.startswith("mlp.") else key
        state[name] = value.contiguous()
    return state


def changes_to(encoder: ResNet) -> list[str]:
    """Lines that make an ordinary ResNet `model` of these planes the encoder's structure."""
    planes = planes_of(encoder)
    stem = planes[0]
    cifar = isinstance(encoder.maxpool, nn.Identity)
    lines = []
    if cifar:
        lines.append(f"model.conv1 = nn.Conv2d(3, {stem}, 3, stride=1, padding=1, bias=False)")
        lines.append("model.maxpool = nn.Identity()")
    elif stem != PLANES[0]:
        lines.append(f"model.conv1 = nn.Conv2d(3, {stem}, 7, stride=2, padding=3, bias=False)")
    if stem != PLANES[0]:
        lines.append(f"model.bn1 = nn.BatchNorm2d({stem})")
        if _first(encoder.layer1).bottleneck:
            lines += [
                f"model.layer1[0].conv1 = nn.Conv2d({stem}, {stem}, 1, bias=False)",
                f"model.layer1[0].downsample[0] = nn.Conv2d({stem}, {4 * stem}, 1, bias=False)",
            ]
        else:
            lines += [
                f"model.layer1[0].conv1 = nn.Conv2d({stem}, {stem}, 3, padding=1, bias=False)",
                "model.layer1[0].downsample = None",
            ]
    if encoder.mlp is None:
        lines.append("model.fc = nn.Identity()")
    else:
        into, out = cast(nn.Linear, encoder.mlp[0]), cast(nn.Linear, encoder.mlp[-1])
        lines += [
            "model.fc = nn.Sequential(",
            f"    nn.Linear({into.in_features}, {into.out_features}, bias=False),",
            f"    nn.BatchNorm1d({into.out_features}),",
            "    nn.ReLU(),",
            f"    nn.Linear({out.in_features}, {out.out_features}),",
            ")",
        ]
    return lines
