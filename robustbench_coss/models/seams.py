"""Where a network of another library can be cut: into stages, the mean over positions, and a head.

A cut is believed only after it was tried: the parts together have to give what the network gives.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_coss.encoders.base import Encoder, InputSpec, Stage
from robustbench_coss.encoders.class_token import ClassTokenEncoder
from robustbench_coss.encoders.timm_models import is_timm, take_apart
from robustbench_coss.models.wide_resnet import WideResNet

TOLERANCE = 1e-4
"""Largest difference, relative to the largest logit, of a network and its parts put together."""


@dataclass(frozen=True)
class Cut:
    """A network in parts.

    Attributes:
        encoder: pixels in [0, 1] to the global representation, with its seam.
        head: the network's own classifier [B, D] -> [B, K]; None if it has none.
        classes: K.
    """

    encoder: Encoder
    head: nn.Module | None
    classes: int | None


class AveragingNet(Encoder):
    """A convolutional network that averages over positions before the rest of it.

    Args:
        input: the pixel contract.
        stages: named parts, applied one after the other; the first sees normalised pixels.
        after: what the network does between the mean [B, C, 1, 1] and its last linear layer.
        local_dim, dim: C and D.
    """

    def __init__(
        self,
        input: InputSpec,
        stages: Mapping[str, nn.Module],
        after: nn.Module,
        local_dim: int,
        dim: int,
    ) -> None:
        super().__init__(input, local_dim, dim)
        self.parts, self.after = nn.ModuleDict(stages), after

    def stages(self) -> dict[str, Stage]:
        first, *rest = self.parts
        begin = self.parts[first]
        return {first: lambda x: begin(self.normalise(x))} | {n: self.parts[n] for n in rest}

    def pool(self, local: Tensor, keep: Tensor | None = None) -> Tensor:
        mean = super().pool(local, keep)
        out: Tensor = self.after(mean[:, :, None, None])
        return out


class Followed(Encoder):
    """An encoder and what a network does to its features, up to the embedding that it gives."""

    def __init__(self, inner: Encoder, after: nn.Module, dim: int) -> None:
        super().__init__(inner.input, inner.local_dim, dim)
        self.inner, self.after = inner, after

    def stages(self) -> dict[str, Stage]:
        return self.inner.stages()

    def pool(self, local: Tensor, keep: Tensor | None = None) -> Tensor:
        found: Tensor = self.after(self.inner.pool(local, keep))
        return found


class TorchvisionViT(ClassTokenEncoder):
    """torchvision's VisionTransformer without its last linear layer."""

    def __init__(self, model: Any, input: InputSpec) -> None:
        super().__init__(input, dim=model.hidden_dim, prefixes=1)
        self.model, self.after = model, model.heads[:-1]

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        model: Any = self.model
        side = x.shape[-1] // model.patch_size
        patches = model._process_input(x)
        tokens = torch.cat([model.class_token.expand(len(x), -1, -1), patches], dim=1)
        tokens = model.encoder.dropout(tokens + model.encoder.pos_embedding)
        tokens = model.encoder.layers[:-1](tokens)
        grid = tokens[:, 1:].transpose(1, 2).reshape(len(x), self.dim, -1, side)
        return grid, tokens[:, :1]

    def read(self, tokens: Tensor) -> Tensor:
        model: Any = self.model
        tokens = model.encoder.ln(model.encoder.layers[-1:](tokens))
        out: Tensor = self.after(tokens[:, 0])
        return out


Parts = tuple[dict[str, nn.Module], Sequence[nn.Module]]


def _resnet(m: Any) -> Parts:
    stem = [m.conv1, m.bn1, m.relu, m.maxpool]
    return {
        "stage1": nn.Sequential(*stem, m.layer1),
        "stage2": m.layer2,
        "stage3": m.layer3,
        "stage4": m.layer4,
    }, [nn.Flatten(), m.fc]


def _wide_resnet(m: Any) -> Parts:
    return {
        "stage1": nn.Sequential(m.conv1, m.block1),
        "stage2": m.block2,
        "stage3": nn.Sequential(m.block3, m.bn1, m.relu),
    }, [nn.Flatten(), m.fc]


def _densenet(m: Any) -> Parts:
    f = dict(m.features.named_children())
    stem = [f[k] for k in ("conv0", "norm0", "relu0", "pool0")]
    return {
        "stage1": nn.Sequential(*stem, f["denseblock1"]),
        "stage2": nn.Sequential(f["transition1"], f["denseblock2"]),
        "stage3": nn.Sequential(f["transition2"], f["denseblock3"]),
        "stage4": nn.Sequential(f["transition3"], f["denseblock4"], f["norm5"], nn.ReLU()),
    }, [nn.Flatten(), m.classifier]


def _blocks(m: Any) -> Parts:
    """Networks that are one sequence of blocks: each is a stage."""
    blocks = m.layers if hasattr(m, "layers") else m.features  # MNASNet calls them so
    return {f"block{i}": part for i, part in enumerate(blocks, start=1)}, [
        nn.Flatten(),
        *m.classifier,
    ]


def _convnext(m: Any) -> Parts:
    f = m.features
    return {
        f"stage{i + 1}": nn.Sequential(f[2 * i], f[2 * i + 1]) for i in range(len(f) // 2)
    }, list(m.classifier)


def _regnet(m: Any) -> Parts:
    blocks = list(m.trunk_output.children())
    first = {"stage1": nn.Sequential(m.stem, blocks[0])}
    rest = {f"stage{i}": block for i, block in enumerate(blocks[1:], start=2)}
    return first | rest, [nn.Flatten(), m.fc]


def _shufflenet(m: Any) -> Parts:
    return {
        "stage1": nn.Sequential(m.conv1, m.maxpool),
        "stage2": m.stage2,
        "stage3": m.stage3,
        "stage4": nn.Sequential(m.stage4, m.conv5),
    }, [nn.Flatten(), m.fc]


class SwinStage(nn.Module):
    """A stage of Swin, which works on [B, h, w, C], between maps [B, C, h, w]."""

    def __init__(self, body: nn.Module, first: bool) -> None:
        super().__init__()
        self.body, self.first = body, first

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x if self.first else x.permute(0, 2, 3, 1))
        return out.permute(0, 3, 1, 2)


def _swin(m: Any) -> Parts:
    pairs = [[m.features[i], m.features[i + 1]] for i in range(0, len(m.features), 2)]
    pairs[-1].append(m.norm)
    return {
        f"stage{i}": SwinStage(nn.Sequential(*pair), first=i == 1)
        for i, pair in enumerate(pairs, start=1)
    }, [nn.Flatten(), m.head]


TORCHVISION: dict[str, Callable[[Any], Parts]] = {
    "ResNet": _resnet,
    "DenseNet": _densenet,
    "MobileNetV2": _blocks,
    "MobileNetV3": _blocks,
    "EfficientNet": _blocks,
    "ConvNeXt": _convnext,
    "RegNet": _regnet,
    "ShuffleNetV2": _shufflenet,
    "MNASNet": _blocks,
    "SwinTransformer": _swin,
}


def cut(module: nn.Module, input: InputSpec) -> Cut | None:
    """A network of torchvision or timm in parts, or None if its parts are not known.

    The parts are a torchvision network's own modules, and twins of a timm one's.

    Raises:
        RuntimeError, AssertionError, ValueError: the network does not take images of this size.
    """
    from torchvision import models as tv

    module.eval()
    made: Cut | None = None
    if isinstance(module, tv.VisionTransformer) and isinstance(module.heads, nn.Sequential):
        made = _split_head(TorchvisionViT(module, input), module.heads[-1])
    kinds = {getattr(tv, name): parts_of for name, parts_of in TORCHVISION.items()}
    for kind, parts_of in (kinds | {WideResNet: _wide_resnet}).items():
        if isinstance(module, kind):
            stages, rest = parts_of(module)
            *between, last = rest
            made = _split_head(averaging(input, stages, nn.Sequential(*between)), last)
    if is_timm(module):
        with suppress(Exception):  # a subclass may have nothing of what its parent does
            apart = take_apart(twin(module), input)
            made = Cut(*apart) if apart is not None else None
    return made if made is not None and faithful(made, module) else None


def twin(module: Any) -> Any:
    """A module of the same make over the same tensors, which can be taken apart by itself."""
    kind: Any = type(module)
    made = kind.__new__(kind)
    for key, value in vars(module).items():
        inner = key.startswith("_") and isinstance(value, dict)  # of PyTorch: parameters, hooks
        made.__dict__[key] = copy.copy(value) if inner else value
    for name, child in module._modules.items():
        made._modules[name] = None if child is None else twin(child)
    return made


def averaging(input: InputSpec, stages: dict[str, nn.Module], after: nn.Module) -> AveragingNet:
    """An `AveragingNet`, its channels and features found by running it."""
    with torch.inference_mode():
        x = torch.zeros(1, 3, input.size, input.size)
        for stage in stages.values():
            x = stage(x)
        dim = after(x.mean(dim=(2, 3), keepdim=True)).shape[1]
    return AveragingNet(input, stages, after, x.shape[1], dim)


def _split_head(encoder: Encoder, last: nn.Module) -> Cut:
    """The last linear layer as the head; a network cut off before it has none."""
    encoder.eval()
    if isinstance(last, nn.Linear):
        return Cut(encoder, last, last.out_features)
    return Cut(encoder, None, None)


def faithful(parts: Cut, module: nn.Module) -> bool:
    """Whether the parts give what the network gives for normalised pixels, on a random image."""
    size = parts.encoder.input.size
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = module(parts.encoder.normalise(image))
        local = parts.encoder.local(image)
        everything = torch.ones(1, *local.shape[2:], dtype=torch.bool)
        for features in (parts.encoder.pool(local), parts.encoder.pool(local, everything)):
            found = features if parts.head is None else parts.head(features)
            if found.shape != expected.shape:
                return False
            if bool((found - expected).abs().max() > TOLERANCE * expected.abs().max()):
                return False
    return True
