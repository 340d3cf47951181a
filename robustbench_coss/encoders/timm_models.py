"""Architectures of the package timm as encoders: `timm:NAME`, freshly initialised.

Nothing is downloaded. The seam lies before the last operation that mixes positions into the
global representation: an average over positions, or a ViT's last block, which its class token
reads the patches through.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_coss.datasets.geometry import Geometry
from robustbench_coss.encoders.base import Encoder, InputSpec, Stage
from robustbench_coss.encoders.class_token import ClassTokenEncoder
from robustbench_coss.encoders.resnet import Strided1x1
from robustbench_coss.errors import CossError, did_you_mean


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
        for names in _stages(self.model):
            self._names = names
            if torch.equal(Encoder.local(self, image), self._features(self.normalise(image))):
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
    """

    def __init__(self, model: Any, input: InputSpec) -> None:
        super().__init__(input, dim=int(model.num_features), prefixes=int(model.num_prefix_tokens))
        self.model = model

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        ((patches, prefix),) = self.model.forward_intermediates(
            x,
            indices=[len(self.model.blocks) - 2],
            return_prefix_tokens=True,
            stop_early=True,
            intermediates_only=True,
        )
        return patches, prefix

    def read(self, tokens: Tensor) -> Tensor:
        tokens = self.model.norm(self.model.blocks[-1](tokens))
        pooled: Tensor = self.model.forward_head(tokens)
        return pooled


def timm_encoder(name: str, size: int, width: float = 1.0) -> Encoder:
    """The timm model `name`, freshly initialised, for images of `size` px.

    Normalisation is that of the model's pretrained configuration.

    Args:
        name: as in `timm.list_models()`.
        size: image side in px; a ViT's grid of positions is made for it.
        width: must be 1; timm has models of other widths under other names.

    Raises:
        CossError: timm is not installed, no such model, a width, a size that the model does not
            take, or a model whose pooling cannot leave out positions.
    """
    timm = _timm()
    if width != 1:
        raise CossError(f"timm models have a fixed width; drop the width {width:g}")
    _check_name(timm, name)
    with _refusals(name, size):
        model = _create(timm, name, size, num_classes=0)
        encoder, faithful = _wrap(timm, model, _input(timm, model, size))
    if not faithful:
        raise _unfaithful(name)
    return encoder


def timm_elements(name: str, size: int) -> int:
    """How many values the parameters of the timm model `name` have; makes none of them.

    Raises:
        CossError: as `timm_encoder`.
    """
    timm = _timm()
    _check_name(timm, name)
    with _refusals(name, size), torch.device("meta"):
        return sum(p.numel() for p in _create(timm, name, size, num_classes=0).parameters())


def timm_with_head(name: str, size: int | None) -> tuple[Encoder, nn.Module | None, int | None]:
    """A timm model with weights that timm fetches: encoder, own classifier and number of classes.

    Args:
        name: with its tag ("resnet18.a1_in1k").
        size: image side in px; None takes what the weights were made for.

    Raises:
        CossError: as `timm_encoder`.
        Exception: whatever timm raises when weights cannot be fetched.
    """
    timm = _timm()
    _check_name(timm, name.partition(".")[0])
    size = size or made_for(name)
    model = _create(timm, name, size, pretrained=True)
    with _refusals(name, size):
        parts = take_apart(model, _input(timm, model, size))
    if parts is None:
        raise _unfaithful(name)
    return parts


def take_apart(model: Any, input: InputSpec) -> tuple[Encoder, nn.Module | None, int | None] | None:
    """Encoder, own classifier and number of classes of a timm model; None if it has no seam.

    The model loses its classifier. One without a classifier, or with two, gives none.

    Args:
        model: with any number of classes, 0 included.
        input: the pixel contract.

    Raises:
        Exception: whatever the model raises at this image size.
    """
    head = model.get_classifier()
    image = torch.rand(1, 3, input.size, input.size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.eval()(Encoder(input, 1, 1).normalise(image))
    model.reset_classifier(0)
    encoder, faithful = _wrap(_timm(), model, input)
    encoder.eval()
    if not faithful:
        return None
    if not isinstance(head, nn.Linear):
        return encoder, None, None
    with torch.inference_mode():
        found = head(encoder(image))
    if bool((found - expected).abs().max() > 1e-3 * expected.abs().max()):
        return None
    return encoder, head, head.out_features


def is_timm(module: nn.Module) -> bool:
    """Whether a module is one of timm's models, which can be taken apart; imports nothing."""
    ours = any(kind.__module__.startswith("timm.models.") for kind in type(module).__mro__)
    return ours and hasattr(module, "forward_head") and hasattr(module, "reset_classifier")


def classifier_name(name: str) -> str:
    """What a timm model calls its last layer, "" if it has several or none.

    Raises:
        CossError: no such model, or timm is not installed.
    """
    timm = _timm()
    _check_name(timm, name)
    found = timm.get_pretrained_cfg(name).classifier
    return found if isinstance(found, str) else ""


def made_for(name: str) -> int:
    """Image side in px that a timm model was made for.

    Raises:
        CossError: no such model, or timm is not installed.
    """
    timm = _timm()
    _check_name(timm, name.partition(".")[0])
    size: int = timm.get_pretrained_cfg(name).input_size[-1]
    return size


def timm_geometry(name: str, size: int) -> Geometry:
    """How timm cuts pictures for a model (name with or without a tag) at `size` px, as
    `timm.data.resolve_data_config` says; at the side that it names for tests, with their crop.

    Raises:
        CossError: no such model, or timm is not installed.
    """
    timm = _timm()
    _check_name(timm, name.partition(".")[0])
    return geometry_from(timm.get_pretrained_cfg(name).to_dict(), size)


def geometry_from(known: dict[str, Any], size: int) -> Geometry:
    """The same by a pretrained configuration of timm's."""
    test = known.get("test_input_size")
    for_tests = test is not None and size == test[-1] != known["input_size"][-1]
    config = _timm().data.resolve_data_config(pretrained_cfg=known, use_test_size=for_tests)
    r, g, b = (round(255 * value) for value in config["mean"])
    resize = math.floor(size / config["crop_pct"])
    return Geometry(resize, config["interpolation"], config["crop_mode"], (r, g, b))


def tags(name: str) -> list[str]:
    """Names of the pretrained weights that timm has of a model.

    Raises:
        CossError: no such model, or timm is not installed.
    """
    timm = _timm()
    _check_name(timm, name)
    return [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]


def _check_name(timm: Any, name: str) -> None:
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models(), "`timm.list_models()` gives all names")
        raise CossError(f"unknown timm model {name!r}; {hint}")


@contextmanager
def _refusals(name: str, size: int) -> Iterator[None]:
    """One line for the many ways in which models refuse a size."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise CossError(
            f"timm model {name!r} does not work at {size} px ({type(error).__name__}: {reason}); "
            f"it is made for {made_for(name)} px"
        ) from error


def _unfaithful(name: str) -> CossError:
    return CossError(
        f"timm model {name!r} makes its features in a way that local representations cannot "
        "be left out of; choose one that averages over positions or a plain VisionTransformer"
    )


def _timm() -> ModuleType:
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise CossError(
            "timm:NAME needs the package timm; run pip install 'robustbench-coss[models]'"
        ) from error
    module: ModuleType = timm
    return module


def _create(timm: Any, name: str, size: int, pretrained: bool = False, **more: Any) -> Any:
    """The model, made for `size` px and, where it can, taking other sizes."""
    for options in ({"img_size": size, "dynamic_img_size": True}, {"img_size": size}, {}):
        try:
            model = timm.create_model(name, pretrained=pretrained, **more, **options)
            break
        except TypeError as error:
            if not options or "img_size" not in str(error):
                raise
    return model


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


def _subsample_before_strided_1x1(model: nn.Module) -> None:
    """Replace strided 1×1 convolutions by `Strided1x1` with the same parameters."""
    for parent in list(model.modules()):
        for key, child in list(parent.named_children()):
            if (
                type(child) is nn.Conv2d
                and child.kernel_size == (1, 1)
                and child.stride[0] == child.stride[1] > 1
                and child.padding == (0, 0)
                and child.groups == 1
            ):
                safe = Strided1x1(
                    child.in_channels, child.out_channels, 1, child.stride[0], device="meta"
                )
                safe.weight, safe.bias = child.weight, child.bias
                setattr(parent, key, safe)


def _input(timm: Any, model: Any, size: int) -> InputSpec:
    """The pixel contract of a model's own configuration."""
    config = timm.data.resolve_model_data_config(model)
    return InputSpec(size, tuple(config["mean"]), tuple(config["std"]))


@torch.no_grad()
def _wrap(timm: Any, model: Any, spec: InputSpec) -> tuple[Encoder, bool]:
    """The encoder of a model, and whether it gives the model's features and can leave out some.

    Tried on one image rather than looked up by family: timm has some 70 of them.
    """
    image = torch.rand(1, 3, spec.size, spec.size, generator=torch.Generator().manual_seed(0))
    _subsample_before_strided_1x1(model.eval())
    encoder: Encoder
    if isinstance(model, timm.models.VisionTransformer) and model.global_pool == "token":
        encoder = ClassTokenViT(model, spec)
    else:
        features = model.forward_features(image)
        layout = "NLC" if features.dim() == 3 else getattr(model, "output_fmt", "NCHW")
        encoder = AveragingModel(model, spec, layout)
        if layout == "NCHW":
            encoder.take_stages(image)
    local = encoder.local(image)
    expected = model(encoder.normalise(image))
    everything = torch.ones(1, *local.shape[2:], dtype=torch.bool)
    faithful = local.shape[1] == encoder.local_dim and all(
        pooled.shape == expected.shape == (1, encoder.dim)
        and bool((pooled - expected).abs().max() <= 1e-3 * expected.abs().max())
        for pooled in (encoder.pool(local), encoder.pool(local, everything))
    )
    return encoder.train(), faithful
