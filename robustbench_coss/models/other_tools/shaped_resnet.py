"""torchvision's ResNet in the shape that weights have. Apart from what is read of weights, since
torchvision takes a second to import, which a model of this project does not need.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision import models as tv
from torchvision.models.resnet import BasicBlock, Bottleneck

from robustbench_coss.models.other_tools.resnets import Stem, block_count, outputs_of, set_stem
from robustbench_coss.models.other_tools.tree import State

STRIDES = (1, 2, 2, 2)


class ShapedResNet(tv.ResNet):  # type: ignore[misc]
    """torchvision's ResNet with as many blocks, channels and groups as weights have.

    Args:
        state: weights in torchvision's names, of which `shape_of` knows the shape.
        stem: what they do not show.
        classes: of the classifier; None for none, features [B, D] are given.
    """

    def __init__(self, state: State, stem: Stem, classes: int | None) -> None:
        nn.Module.__init__(self)
        first = state["conv1.weight"]
        self.conv1 = nn.Conv2d(3, len(first), first.shape[-1], bias="conv1.bias" in state)
        self.bn1, self.relu = nn.BatchNorm2d(len(first)), nn.ReLU(inplace=True)
        set_stem(self, stem)
        channels = len(first)
        for stage, stride in enumerate(STRIDES, start=1):
            blocks = []
            for number in range(block_count(state, stage)):
                name = f"layer{stage}.{number}."
                block = _block(state, name, channels, stride if number == 0 else 1)
                channels = outputs_of(state, name)
                blocks.append(block)
            setattr(self, f"layer{stage}", nn.Sequential(*blocks) if blocks else nn.Identity())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc: Any = nn.Identity() if classes is None else nn.Linear(channels, classes)


def _block(state: State, name: str, channels: int, stride: int) -> Any:
    """A block by the shapes of its weights; of a bottleneck, the 3×3 convolution strides."""
    outputs = outputs_of(state, name)
    down = None
    if f"{name}downsample.0.weight" in state:
        down = nn.Sequential(
            nn.Conv2d(channels, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )
    inner = state[f"{name}conv2.weight"]
    width, groups = len(inner), len(inner) // inner.shape[1]
    if f"{name}conv3.weight" not in state:
        return BasicBlock(channels, outputs, stride, down)
    block = Bottleneck(channels, outputs // 4, stride, down)
    block.conv1, block.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
    block.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
    block.bn2 = nn.BatchNorm2d(width)
    block.conv3, block.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
    return block
