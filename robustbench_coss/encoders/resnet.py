"""ResNets with the seam between local representations and pooling: plain, RF-ResNets, BagNets.

An RF-ResNet bounds the receptive field of its local representations by turning 3×3 convolutions
into 1×1 from the top down, and adds an MLP after average pooling (CO-SSL, arXiv 2501.02860).
Parameter names follow torchvision's, so its weights load into the plain ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from robustbench_coss.encoders.base import Encoder, InputSpec, Stage
from robustbench_coss.encoders.batchnorm import FEW, BatchNorm2d, apart
from robustbench_coss.encoders.receptive_field import Layer, field_of
from robustbench_coss.errors import CossError

Stem = Literal["imagenet", "cifar", "bagnet"]
Kernels = tuple[tuple[tuple[int, ...], ...], ...]
"""Kernel side of each k×k convolution: [stage][block][convolution]."""

CIFAR_STEM_UP_TO = 64
"""Images of at most this side get the CIFAR stem (3×3, stride 1, no max pooling; SimCLR B.9)."""

STEM_LAYERS: dict[Stem, list[Layer]] = {
    "imagenet": [(7, 2), (3, 2)],
    "cifar": [(3, 1)],
    "bagnet": [(1, 1), (3, 1)],
}
STAGE_STRIDES = (1, 2, 2, 2)
BAGNET_STRIDES = (2, 2, 2, 1)


@dataclass(frozen=True)
class Layout:
    """Depth and block type of a ResNet (He et al. 2016, table 1)."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool

    @property
    def convolutions(self) -> int:
        """k×k convolutions per block."""
        return 1 if self.bottleneck else 2

    @property
    def expansion(self) -> int:
        """Output channels of a block over its inner channels."""
        return 4 if self.bottleneck else 1


RESNET18 = Layout((2, 2, 2, 2), bottleneck=False)
RESNET50 = Layout((3, 4, 6, 3), bottleneck=True)


def full_kernels(layout: Layout) -> Kernels:
    """The ordinary ResNet: every k×k convolution is 3×3."""
    return tuple(((3,) * layout.convolutions,) * count for count in layout.blocks)


def chain(stem: Stem, kernels: Kernels, strides: tuple[int, ...] = STAGE_STRIDES) -> list[Layer]:
    """(kernel, stride) along the path with the widest field; the stride sits in a stage's first.

    With the kernels of the first n stages only, the chain up to the end of stage n.
    """
    layers = list(STEM_LAYERS[stem])
    for stage, stride in zip(kernels, strides, strict=False):
        for number, block in enumerate(stage):
            for position, kernel in enumerate(block):
                layers.append((kernel, stride if number == position == 0 else 1))
    return layers


def bounded_kernels(layout: Layout, stem: Stem, field: int) -> Kernels:
    """Kernels whose local representations see exactly `field` px.

    From the top down, each 3×3 becomes 1×1 if the field then still is at least the wanted one.
    The paper's own placement was not at hand; this rule is ours.

    Raises:
        CossError: the rule does not end at `field` (the message gives the field it ends at).
    """
    kernels = [[list(block) for block in stage] for stage in full_kernels(layout)]

    def frozen() -> Kernels:
        return tuple(tuple(tuple(block) for block in stage) for stage in kernels)

    for stage in reversed(kernels):
        for block in reversed(stage):
            for position in reversed(range(len(block))):
                block[position] = 1
                if field_of(chain(stem, frozen()))[0] < field:
                    block[position] = 3
    reached = field_of(chain(stem, frozen()))[0]
    if reached != field:
        raise CossError(
            f"no receptive field of exactly {field} px with this stem; "
            f"the nearest that is at least as large is {reached} px"
        )
    return frozen()


class Strided1x1(nn.Conv2d):
    """A 1×1 convolution with a stride, as subsampling before a 1×1 convolution: the same values.

    Both strides are the same, there is neither padding nor grouping.

    In channels_last, oneDNN's weight gradient of a strided 1×1 convolution writes past its buffer
    where fewer channels come in than fit a vector register (uxlfoundation/oneDNN#6035, open with
    torch 2.14.1 on CPUs): a crash, a hang or wrong gradients. Subsampling first avoids it.
    """

    def forward(self, x: Tensor) -> Tensor:
        step = self.stride[0]
        return nn.functional.conv2d(x[:, :, ::step, ::step], self.weight, self.bias)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    if kernel == 1 and stride > 1:
        return Strided1x1(inputs, outputs, 1, stride, bias=False)
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def _stem_convolution(stem: Stem, outputs: int) -> nn.Module:
    if stem == "imagenet":
        return _conv(3, outputs, 7, stride=2)
    if stem == "cifar":
        return _conv(3, outputs, 3)
    return nn.Sequential(_conv(3, outputs, 1), _conv(outputs, outputs, 3))


class Block(nn.Module):
    """A residual block: basic (two k×k) or bottleneck (1×1, k×k, 1×1; the stride in the k×k)."""

    def __init__(self, inputs: int, inner: int, kernels: tuple[int, ...], stride: int) -> None:
        super().__init__()
        self.bottleneck = len(kernels) == 1
        outputs = inner * (4 if self.bottleneck else 1)
        if self.bottleneck:
            self.conv1 = _conv(inputs, inner, 1)
            self.conv2 = _conv(inner, inner, kernels[0], stride)
            self.conv3 = _conv(inner, outputs, 1)
            self.bn3 = BatchNorm2d(outputs)
        else:
            self.conv1 = _conv(inputs, inner, kernels[0], stride)
            self.conv2 = _conv(inner, inner, kernels[1])
        self.bn1, self.bn2 = BatchNorm2d(inner), BatchNorm2d(inner)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Sequential(_conv(inputs, outputs, 1, stride), BatchNorm2d(outputs))
            if stride != 1 or inputs != outputs
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        if self.bottleneck:
            x = self.bn3(self.conv3(self.relu(x)))
        result: Tensor = self.relu(x + shortcut)
        return result


class ResNet(Encoder):
    """A ResNet as an `Encoder`.

    Args:
        layout: depth and block type.
        kernels: kernel side of each k×k convolution.
        input: the pixel contract.
        stem: "imagenet" (7×7 stride 2, max pooling), "cifar" (3×3) or "bagnet" (1×1, then 3×3).
        width: factor on all channel counts.
        mlp_hidden: hidden units of the MLP after pooling at width 1; 0 for no MLP.
        strides: of each stage's first k×k convolution.

    Attributes:
        field: receptive field of a local representation in px.
        jump: distance between neighbouring local representations in px.
        reach: (field, jump) after the stem and after each of the four stages.
    """

    def __init__(
        self,
        layout: Layout,
        kernels: Kernels,
        input: InputSpec,
        stem: Stem,
        width: float,
        mlp_hidden: int = 0,
        strides: tuple[int, ...] = STAGE_STRIDES,
    ) -> None:
        if not 0 < width <= 8:
            raise CossError(f"width must be above 0 and at most 8, got {width:g}")
        planes = [max(1, round(64 * width * 2**stage)) for stage in range(4)]
        dim = planes[-1] * layout.expansion
        super().__init__(input, local_dim=dim, dim=dim)
        self.stem, self.kernels = stem, kernels
        self.reach = [field_of(chain(stem, kernels[:number], strides)) for number in range(5)]
        self.field, self.jump = self.reach[-1]

        self.conv1 = _stem_convolution(stem, planes[0])
        self.bn1 = BatchNorm2d(planes[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if stem == "imagenet" else nn.Identity()
        inputs = planes[0]
        stages = []
        for number, (stage, stride) in enumerate(zip(kernels, strides, strict=True)):
            blocks = []
            for index, block in enumerate(stage):
                blocks.append(Block(inputs, planes[number], block, stride if index == 0 else 1))
                inputs = planes[number] * layout.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        hidden = max(1, round(mlp_hidden * width))
        self.mlp = (
            nn.Sequential(
                nn.Linear(dim, hidden, bias=False),
                nn.BatchNorm1d(hidden),
                nn.ReLU(inplace=True),
                nn.Linear(hidden, dim),
            )
            if mlp_hidden
            else None
        )
        for module in self.modules():
            # He et al. 2015, as torchvision initialises. Where only shapes are asked for, torch
            # would load its compiler to draw nothing.
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self) -> dict[str, Stage]:
        return {
            "stage1": self._stem_and_stage1,
            "stage2": self.layer2,
            "stage3": self.layer3,
            "stage4": self.layer4,
        }

    def _stem_and_stage1(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(self.normalise(x)))))
        result: Tensor = self.layer1(x)
        return result

    def _in_one_go(self, views: list[Tensor]) -> bool:
        """Whether batches go through together: with maps so small fixed costs on a CPU count.

        Several processes have another BatchNorm in its place, which does not tell parts apart.
        """
        apt = isinstance(self.bn1, BatchNorm2d) and self.bn1.num_features < FEW
        return apt and self.training and views[0].device.type == "cpu"

    def each_maps(self, views: list[Tensor]) -> list[dict[str, Tensor]]:
        if not self._in_one_go(views):
            return super().each_maps(views)
        with apart(len(views)):
            found = self.maps(torch.cat(views))
        each = zip(*(every.chunk(len(views)) for every in found.values()), strict=True)
        return [dict(zip(found, parts, strict=True)) for parts in each]

    def each_local(self, views: list[Tensor]) -> list[Tensor]:
        if not self._in_one_go(views):
            return super().each_local(views)
        with apart(len(views)):
            return list(self.local(torch.cat(views)).chunk(len(views)))

    def pool(self, local: Tensor, keep: Tensor | None = None) -> Tensor:
        pooled = super().pool(local, keep)
        if self.mlp is None:
            return pooled
        result: Tensor = self.mlp(pooled)
        return result


def stem_for(size: int) -> Stem:
    """The stem that suits images of `size` px."""
    return "cifar" if size <= CIFAR_STEM_UP_TO else "imagenet"


def features_of(layout: Layout) -> int:
    """Features at width 1: the channels of the last stage."""
    return 512 * layout.expansion


def plain_resnet(layout: Layout, size: int, width: float = 1.0, mlp: bool = False) -> ResNet:
    """The ordinary ResNet for images of `size` px; up to 64 px with the CIFAR stem.

    Args:
        layout: depth and block type.
        size: image side in px.
        width: factor on all channel counts.
        mlp: whether an MLP follows the pooling, with as many hidden units as features.
    """
    hidden = features_of(layout) if mlp else 0
    return ResNet(layout, full_kernels(layout), InputSpec(size), stem_for(size), width, hidden)


RF_STEMS: dict[Layout, Stem] = {RESNET18: "cifar", RESNET50: "imagenet"}
"""An RF-ResNet has one stem at all image sizes, so that its name says its field."""

RF_HIDDEN = {RESNET18: features_of(RESNET18), RESNET50: 2256}
"""Hidden units of the MLP of all RF-ResNets of a depth, so that they differ in kernels alone.

For ResNet-50 the number gives RF99-ResNet-50 the paper's 23.7 M parameters.
"""


def rf_resnet(
    layout: Layout, field: int, size: int, width: float = 1.0, mlp: bool = True
) -> ResNet:
    """The RF-ResNet of a depth and a receptive field.

    Args:
        layout: depth and block type.
        field: receptive field of a local representation in px.
        size: image side in px.
        width: factor on all channel counts, the MLP's included.
        mlp: whether the MLP follows the pooling.

    Raises:
        CossError: the rule does not reach exactly this field.
    """
    stem = RF_STEMS[layout]
    kernels = bounded_kernels(layout, stem, field)
    return ResNet(layout, kernels, InputSpec(size), stem, width, RF_HIDDEN[layout] if mlp else 0)


def bagnet(
    blocks: tuple[int, int, int, int], size: int, width: float = 1.0, mlp: bool = False
) -> ResNet:
    """A BagNet (Brendel and Bethge 2019, arXiv 1904.00760): ResNet-50 with few 3×3 convolutions.

    The original pads nothing; here all convolutions are padded as in the other ResNets, so that
    maps are as large and images smaller than the field are taken.

    Args:
        blocks: per stage, how many of the leading blocks have a 3×3 convolution.
        size: image side in px.
        width: factor on all channel counts.
        mlp: whether an MLP follows the pooling, with as many hidden units as features.
    """
    kernels = tuple(
        ((3,),) * wide + ((1,),) * (count - wide)
        for wide, count in zip(blocks, RESNET50.blocks, strict=True)
    )
    hidden = features_of(RESNET50) if mlp else 0
    return ResNet(RESNET50, kernels, InputSpec(size), "bagnet", width, hidden, BAGNET_STRIDES)


# The registered names. Fields grow by about 1.5 (ResNet-18) and 1.7 (ResNet-50) from one to the
# next; all but 99 are reached with 3×3 up to one layer and 1×1 above it.
resnet18 = partial(plain_resnet, RESNET18)
"""ResNet-18 as published; 3×3 stem up to 64 px."""
resnet50 = partial(plain_resnet, RESNET50)
"""ResNet-50 as published; 3×3 stem up to 64 px."""
rf9_resnet18 = partial(rf_resnet, RESNET18, 9)
"""ResNet-18, local representations of 9 px."""
rf13_resnet18 = partial(rf_resnet, RESNET18, 13)
"""ResNet-18, local representations of 13 px."""
rf21_resnet18 = partial(rf_resnet, RESNET18, 21)
"""ResNet-18, local representations of 21 px."""
rf29_resnet18 = partial(rf_resnet, RESNET18, 29)
"""ResNet-18, local representations of 29 px."""
rf45_resnet18 = partial(rf_resnet, RESNET18, 45)
"""ResNet-18, local representations of 45 px."""
rf61_resnet18 = partial(rf_resnet, RESNET18, 61)
"""ResNet-18, local representations of 61 px."""
rf19_resnet50 = partial(rf_resnet, RESNET50, 19)
"""ResNet-50, local representations of 19 px."""
rf35_resnet50 = partial(rf_resnet, RESNET50, 35)
"""ResNet-50, local representations of 35 px."""
rf59_resnet50 = partial(rf_resnet, RESNET50, 59)
"""ResNet-50, local representations of 59 px."""
rf99_resnet50 = partial(rf_resnet, RESNET50, 99)
"""ResNet-50, local representations of 99 px."""
rf171_resnet50 = partial(rf_resnet, RESNET50, 171)
"""ResNet-50, local representations of 171 px."""
rf267_resnet50 = partial(rf_resnet, RESNET50, 267)
"""ResNet-50, local representations of 267 px."""
bagnet9 = partial(bagnet, (1, 1, 0, 0))
"""BagNet: ResNet-50, local representations of 9 px."""
bagnet17 = partial(bagnet, (1, 1, 1, 0))
"""BagNet: ResNet-50, local representations of 17 px."""
bagnet33 = partial(bagnet, (1, 1, 1, 1))
"""BagNet: ResNet-50, local representations of 33 px."""
