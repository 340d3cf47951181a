"""timm's models with a seam: before an average over positions, or before a ViT's last block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_coss.encoders.base import Encoder, InputSpec, Stage
from robustbench_coss.encoders.class_token import ClassTokenEncoder


class AveragingModel(Encoder):
    """A timm model that averages over positions, a CNN or a transformer, with what its head does.

    `local` is the last feature map, or the last patch tokens laid out as a map. `pool` is the
    model's own; with `keep`, its head sees the mean of the kept positions as the only position.

    Args:
        model: built with `num_classes=0`.
        input: the pixel contract.
        layout: of the model's features: "NCHW", "NHWC" or "NLC" (tokens, prefix tokens first).
    """

    def __init__(self, model: Any, input: InputSpec, layout: str) -> None:
        super().__init__(input, local_dim=model.num_features, dim=model.head_hidden_size)
        self.model, self.layout = model, layout
        self.prefixes: int = getattr(model, "num_prefix_tokens", 0)
        self._names: dict[str, list[str]] = {}  # of stages, with the model's parts in each

    def take_stages(self, image: Tensor) -> None:
        """Find the model's stages, if parts known from other models give its features."""
        expected = self._features(self.normalise(image))
        for names in _stages(self.model):
            self._names = names
            with suppress(Exception):  # a guess that raises is a wrong guess
                if torch.equal(Encoder.local(self, image), expected):
                    return
        self._names = {}

    def stages(self) -> dict[str, Stage]:
        if not self._names:
            return {"local": self.local}
        first, *rest = self._names
        found: dict[str, Stage] = {first: lambda x: self._run(first, self.normalise(x))}
        return found | {name: partial(self._run, name) for name in rest}

    def _run(self, stage: str, x: Tensor) -> Tensor:
        for name in self._names[stage]:
            x = self.model.get_submodule(name)(x)
        return x

    def local(self, x: Tensor) -> Tensor:
        return self._features(self.normalise(x))

    def _features(self, x: Tensor) -> Tensor:
        features: Tensor = self.model.forward_features(x)
        if self.layout == "NHWC":
            return features.permute(0, 3, 1, 2)
        if self.layout == "NLC":
            patches = features[:, self.prefixes :]
            height = round((patches.shape[1] * x.shape[2] / x.shape[3]) ** 0.5)
            return patches.transpose(1, 2).reshape(len(x), self.local_dim, height, -1)
        return features

    def pool(self, local: Tensor, keep: Tensor | None = None) -> Tensor:
        if keep is not None:
            local = super().pool(local, keep)[:, :, None, None]
        if self.layout == "NHWC":
            local = local.permute(0, 2, 3, 1)
        elif self.layout == "NLC":  # the average leaves prefix tokens out: their values are free
            local = nn.functional.pad(local.flatten(2).transpose(1, 2), (0, 0, self.prefixes, 0))
        pooled: Tensor = self.model.forward_head(local)
        return pooled


class ClassTokenViT(ClassTokenEncoder):
    """A timm VisionTransformer whose global representation is its class token.

    Args:
        model: a VisionTransformer built with `num_classes=0` and class-token pooling.
        input: the pixel contract.
        both: put the mean of the patch tokens behind the class token.
        blocks: of how many last blocks the class token is taken, one behind the other, each after
            the final norm; less than all. The pooling is these blocks.
    """

    def __init__(self, model: Any, input: InputSpec, both: bool = False, blocks: int = 1) -> None:
        dim = int(model.num_features)
        super().__init__(input, dim, int(model.num_prefix_tokens), dim * (blocks + both))
        self.model, self.both, self.blocks = model, both, blocks

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        ((patches, prefix),) = self.model.forward_intermediates(
            x,
            indices=[len(self.model.blocks) - 1 - self.blocks],
            return_prefix_tokens=True,
            stop_early=True,
            intermediates_only=True,
        )
        return patches, prefix

    def read(self, tokens: Tensor) -> Tensor:
        earlier = []
        for block in self.model.blocks[-self.blocks : -1]:
            tokens = block(tokens)
            earlier.append(self.model.norm(tokens)[:, 0])
        tokens = self.model.norm(self.model.blocks[-1](tokens))
        pooled: Tensor = self.model.forward_head(tokens)
        last = []
        if self.both:
            patches = tokens[:, self.prefixes :]
            last = [patches.sum(dim=1) / max(1, patches.shape[1])]
        return torch.cat([*earlier, pooled, *last], dim=1) if earlier or last else pooled


def _stages(model: nn.Module) -> Iterator[dict[str, list[str]]]:
    """Ways in which timm's families name their stages, tried in turn: stage -> parts in order."""
    children = dict(model.named_children())

    def there(*names: str) -> list[str]:
        return [name for name in names if name in children]

    def numbered(parts: list[list[str]]) -> dict[str, list[str]]:
        return {f"stage{i}": part for i, part in enumerate(parts, start=1)}

    def counted(name: str) -> list[list[str]]:
        return [[f"{name}.{key}"] for key, _ in children[name].named_children()]

    if "layer1" in children:  # ResNet and its like
        layers = [[name] for name in there("layer1", "layer2", "layer3", "layer4")]
        yield numbered([there("conv1", "bn1", "act1", "maxpool") + layers[0], *layers[1:]])
    if "stages" in children:  # ConvNeXt, ResNetV2, NFNet
        stages = counted("stages")
        stages[0] = there("stem") + stages[0]
        stages[-1] = stages[-1] + there("norm_pre", "norm", "final_conv", "final_act")
        yield numbered(stages)
    if "s1" in children:  # RegNet
        stages = [[name] for name in there("s1", "s2", "s3", "s4")]
        yield numbered([there("stem") + stages[0], *stages[1:-1], stages[-1] + there("final_conv")])
    if "blocks" in children:  # EfficientNet, MobileNet
        stages = counted("blocks")
        stages[0] = there("conv_stem", "bn1", "act1") + stages[0]
        stages[-1] = stages[-1] + there("conv_head", "bn2", "act2")
        yield numbered(stages)
