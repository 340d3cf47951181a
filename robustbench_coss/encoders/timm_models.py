"""Architectures of the package timm as encoders: `timm:NAME`, freshly initialised.

Nothing is downloaded. The seam lies before the last operation that mixes positions into the
global representation: an average over positions, or a ViT's last block, which its class token
reads the patches through.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import torch
from torch import nn

from robustbench_coss.datasets.geometry import Geometry
from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.encoders.resnet import Strided1x1
from robustbench_coss.encoders.timm_seams import AveragingModel, ClassTokenViT
from robustbench_coss.errors import CossError, did_you_mean, kind_and_line


class NoSeam(CossError):
    """A model of timm whose local representations cannot be left out."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"timm model {name!r} makes its features in a way that local representations cannot "
            "be left out of; choose one that averages over positions or a plain VisionTransformer"
        )


def timm_model(name: str, size: int, **options: Any) -> Any:
    """The timm model `name`, freshly initialised, for images of `size` px.

    Args:
        options: as `timm.create_model` takes them.

    Raises:
        CossError: timm is not installed, no such model, or it refuses the size.
    """
    timm = timm_module()
    _check_name(timm, name.partition(".")[0])
    with _refusals(name, size):
        return _create(timm, name, size, **options)


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
    timm = timm_module()
    if width != 1:
        raise CossError(f"timm models have a fixed width; drop the width {width:g}")
    _check_name(timm, name)
    with _refusals(name, size):
        model = _create(timm, name, size, num_classes=0)
        spec = input_of(model, size)
        model.eval()(torch.zeros(1, 3, size, size))  # which refuses a size by itself
    encoder = _wrap(timm, model, spec)
    if encoder is None:
        raise NoSeam(name)
    return encoder.train()


def timm_elements(name: str, size: int) -> int:
    """How many values the parameters of the timm model `name` have; makes none of them.

    Raises:
        CossError: as `timm_encoder`.
    """
    timm = timm_module()
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
    timm = timm_module()
    _check_name(timm, name.partition(".")[0])
    size = size or made_for(name)
    model = _create(timm, name, size, pretrained=True)
    with _refusals(name, size):
        parts = take_apart(model, input_of(model, size))
    if parts is None:
        raise NoSeam(name)
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
    encoder = _wrap(timm_module(), model, input)
    if encoder is None:
        return None
    encoder.eval()
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


def in_timm(name: str) -> bool:
    """Whether timm is installed and has a model of this name."""
    try:
        import timm
    except ImportError:
        return False
    return bool(timm.is_model(name))


def classifier_name(name: str) -> str:
    """What a timm model calls its last layer, "" if it has several or none.

    Raises:
        CossError: no such model, or timm is not installed.
    """
    timm = timm_module()
    _check_name(timm, name)
    found = timm.get_pretrained_cfg(name).classifier
    return found if isinstance(found, str) else ""


def made_for(name: str) -> int:
    """Image side in px that a timm model was made for.

    Raises:
        CossError: no such model, or timm is not installed.
    """
    timm = timm_module()
    _check_name(timm, name.partition(".")[0])
    size: int = timm.get_pretrained_cfg(name).input_size[-1]
    return size


def timm_geometry(name: str, size: int) -> Geometry:
    """How timm cuts pictures for a model (name with or without a tag) at `size` px, as
    `timm.data.resolve_data_config` says; at the side that it names for tests, with their crop.

    Raises:
        CossError: no such model, or timm is not installed.
    """
    timm = timm_module()
    _check_name(timm, name.partition(".")[0])
    return geometry_from(timm.get_pretrained_cfg(name).to_dict(), size)


def geometry_from(known: dict[str, Any], size: int) -> Geometry:
    """The same by a pretrained configuration of timm's."""
    test = known.get("test_input_size")
    for_tests = test is not None and size == test[-1] != known["input_size"][-1]
    config = timm_module().data.resolve_data_config(pretrained_cfg=known, use_test_size=for_tests)
    r, g, b = (round(255 * value) for value in config["mean"])
    resize = math.floor(size / config["crop_pct"])
    return Geometry(resize, config["interpolation"], config["crop_mode"], (r, g, b))


def tags(name: str) -> list[str]:
    """Names of the pretrained weights that timm has of a model.

    Raises:
        CossError: no such model, or timm is not installed.
    """
    timm = timm_module()
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
        reason = kind_and_line(error, 160)
        raise CossError(
            f"timm model {name!r} does not work at {size} px ({reason}); "
            f"it is made for {made_for(name)} px"
        ) from error


def timm_module(part: str = "", what: str = "timm:NAME") -> Any:
    """The package timm, or a module in it.

    Args:
        part: of the package, such as "models.convnext".
        what: needs it, for people.

    Raises:
        CossError: it is not installed.
    """
    try:
        import timm
        import timm.data

        return import_module(f"timm.{part}") if part else timm
    except ImportError as error:
        raise CossError(
            f"{what} needs the package timm; run pip install 'robustbench-coss[models]'"
        ) from error


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


def input_of(model: Any, size: int) -> InputSpec:
    """The pixel contract of a model's own configuration."""
    config = timm_module().data.resolve_model_data_config(model)
    return InputSpec(size, tuple(config["mean"]), tuple(config["std"]))


@torch.no_grad()
def _wrap(timm: Any, model: Any, spec: InputSpec) -> Encoder | None:
    """The encoder of a model; None if it does not give the model's features or leave out some.

    Tried on one image rather than looked up by family: timm has some 70 of them.
    """
    image = torch.rand(1, 3, spec.size, spec.size, generator=torch.Generator().manual_seed(0))
    _subsample_before_strided_1x1(model.eval())
    with suppress(Exception):  # what a family does otherwise may raise anything
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
        if local.shape[1] == encoder.local_dim and all(
            pooled.shape == expected.shape == (1, encoder.dim)
            and bool((pooled - expected).abs().max() <= 1e-3 * expected.abs().max())
            for pooled in (encoder.pool(local), encoder.pool(local, everything))
        ):
            return encoder
    return None
