"""Wide ResNets of small images (Zagoruyko & Komodakis 2016), in the names of their usual ports.

Two ports share these names and differ in what no weight shows. That of xternalz has plain
convolutions, ReLU and activates the input of every block that changes its width. That of FixMatch,
which solo-learn has too (solo/backbones/wide_resnet), has convolutions with biases, leaky ReLU of
slope 0.1 and batch norms with ε = 0.001, and does so in the first block alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor, nn

STRIDES = (1, 2, 2)


class WideBlock(nn.Module):
    """Batch norm, activation and convolution twice, beside the input or its projection."""

    def __init__(
        self, inside: int, outside: int, stride: int, fixmatch: bool, activate: bool
    ) -> None:
        super().__init__()
        eps = 1e-3 if fixmatch else 1e-5
        self.bn1, self.bn2 = nn.BatchNorm2d(inside, eps), nn.BatchNorm2d(outside, eps)
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=fixmatch)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=fixmatch)
        self.act = nn.LeakyReLU(0.1) if fixmatch else nn.ReLU()
        self.convShortcut = None
        if inside != outside:
            self.convShortcut = nn.Conv2d(inside, outside, 1, stride, bias=fixmatch)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        if self.convShortcut is None:
            return x + self.body(self.act(self.bn1(x)))
        if self.activate:
            x = self.act(self.bn1(x))
        out: Tensor = self.convShortcut(x) + self.body(x)
        return out

    def body(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.act(self.bn2(self.conv1(x))))
        return out


class WideGroup(nn.Module):
    """Blocks of one width."""

    def __init__(self, blocks: list[WideBlock]) -> None:
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(nn.Module):
    """A wide ResNet up to its classifier `fc`, if it has one.

    Args:
        widths: of the stem and the three groups.
        blocks: of a group.
        fixmatch: which port it is.
        classes: of the classifier; None for none, features [B, D] are given.
    """

    def __init__(
        self, widths: tuple[int, ...], blocks: int, fixmatch: bool, classes: int | None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=fixmatch)
        groups = []
        for number, ((inside, outside), stride) in enumerate(
            zip(pairwise(widths), STRIDES, strict=True)
        ):
            activate = number == 0 or not fixmatch
            first = WideBlock(inside, outside, stride, fixmatch, activate)
            rest = [WideBlock(outside, outside, 1, fixmatch, activate) for _ in range(blocks - 1)]
            groups.append(WideGroup([first, *rest]))
        self.block1, self.block2, self.block3 = groups
        self.bn1 = nn.BatchNorm2d(widths[-1], 1e-3 if fixmatch else 1e-5)
        self.relu = nn.LeakyReLU(0.1) if fixmatch else nn.ReLU()
        self.fc = nn.Identity() if classes is None else nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        out: Tensor = self.fc(self.relu(self.bn1(x)).mean(dim=(2, 3)))
        return out


def wide_shape(state: Mapping[str, Tensor]) -> tuple[tuple[int, ...], int, bool] | None:
    """Widths, blocks of a group, and which port the names and shapes of weights show."""
    firsts = [state.get(f"block{group}.layer.0.conv1.weight") for group in (1, 2, 3)]
    stem = state.get("conv1.weight")
    if stem is None or any(first is None for first in firsts):
        return None
    widths = (len(stem), *(len(first) for first in firsts if first is not None))
    counts = {
        sum(f"block{group}.layer.{n}.conv1.weight" in state for n in range(200))
        for group in (1, 2, 3)
    }
    if len(counts) != 1 or tuple(stem.shape[1:]) != (3, 3, 3):
        return None
    return widths, counts.pop(), "conv1.bias" in state
