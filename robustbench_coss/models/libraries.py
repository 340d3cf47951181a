"""Models of torchvision and timm by name: `torchvision:NAME[:WEIGHTS]`, `timm:NAME[:WEIGHTS]`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from robustbench_coss.datasets.geometry import Geometry
from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.encoders.timm_models import (
    NoSeam,
    input_of,
    made_for,
    tags,
    timm_encoder,
    timm_geometry,
    timm_model,
    timm_with_head,
)
from robustbench_coss.errors import CossError, did_you_mean, kind_and_line, one_line
from robustbench_coss.files import sha256_of
from robustbench_coss.models.checkpoint import Checkpoint, foreign_metadata
from robustbench_coss.models.identity import state_sha256
from robustbench_coss.models.seams import Cut, cut, twin
from robustbench_coss.models.wrap import OpaqueEncoder, describe_input, trial

IMAGENET_CLASSES = 1000
FRESH_SEED = 0


def library_model(spec: str, size: int | None) -> Checkpoint:
    """A model of torchvision or timm, with its weights or freshly initialised with a fixed seed.

    Args:
        spec: `LIBRARY:NAME` or `LIBRARY:NAME:WEIGHTS`. Weights are downloaded by the library.
        size: image side in px; None takes what the weights were made for.

    Raises:
        CossError: no such library, model or weights, weights that cannot be fetched, or a size
            that the model does not take.
    """
    library, _, rest = spec.partition(":")
    name, _, weights = rest.partition(":")
    if library == "torchvision":
        parts, source = _torchvision(name, weights, size)
    else:
        parts, source = _timm(name, weights, size)
    encoder, own_head = parts.encoder, parts.head is not None and bool(weights)
    trained = source if weights else f"{source}, freshly initialised with seed {FRESH_SEED}"
    imagenet = bool(weights) and parts.classes == IMAGENET_CLASSES
    return Checkpoint(
        encoder,
        spec.replace(":", "-") if weights else f"{library}-{name}-untrained",
        None,
        _sha256(f"{library}:{name}", parts),
        foreign_metadata(
            f"{library}:{name}",
            encoder.input.size,
            trained,
            dataset="imagenet" if imagenet else None,
        ),
        parts.head if own_head else None,
        parts.classes if own_head else None,
        describe_input(encoder.input, source),
    )


def _sha256(arch: str, parts: Cut) -> str:
    """Two architectures may have weights of the same names, shapes and, once drawn, values."""
    state = [state_sha256(part) for part in (parts.encoder, parts.head) if part is not None]
    contract = parts.encoder.input
    colours = [contract.size, *contract.mean, *contract.std]
    return sha256_of({"arch": arch, "state": state, "input": colours})


def torchvision_module(name: str, **options: Any) -> nn.Module:
    """A classifier of torchvision.

    Raises:
        CossError: there is none of this name, or it is not made with these options.
    """
    from torchvision import models as tv

    _check_torchvision(name)
    try:
        with fresh():
            made: nn.Module = tv.get_model(name, **options)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        asked = ", ".join(f"{key}={value}" for key, value in options.items())
        reason = one_line(error, 160)
        raise CossError(f"torchvision cannot make {name} with {asked}: {reason}") from error
    return made


def _check_torchvision(name: str) -> None:
    from torchvision import models as tv

    known = tv.list_models(module=tv)
    if name not in known:
        hint = did_you_mean(name, known, "`torchvision.models.list_models()` gives all names")
        raise CossError(f"unknown torchvision model {name!r}; {hint}")


def cut_or_opaque(module: nn.Module, spec: InputSpec, name: str) -> Cut:
    """A network in parts; as a whole, with its output as logits, where the parts are not known.

    Raises:
        CossError: it does not take images of this size.
    """
    with torch.no_grad():
        width = trial(module.eval(), name, spec).shape[1]
    parts = cut(module, spec)
    return parts or Cut(OpaqueEncoder(module, spec, width).eval(), nn.Identity(), width)


def _torchvision(name: str, weights: str, size: int | None) -> tuple[Cut, str]:
    from torchvision import models as tv

    if not weights:
        options = {"image_size": size} if size is not None and name.startswith("vit_") else {}
        module = torchvision_module(name, **options)
        return cut_or_opaque(module, InputSpec(size or 224), name), f"torchvision's {name}"
    _check_torchvision(name)
    known = tv.get_model_weights(name)
    names = [entry.name for entry in known]
    if weights not in (*names, "DEFAULT"):
        raise CossError(
            f"torchvision has no weights {weights!r} for {name}; it has: {', '.join(names)}"
        )
    entry = known[weights]
    with fetched(f"the weights {weights} of torchvision's {name}"):
        module = tv.get_model(name, weights=entry)
    transform: Any = entry.transforms()
    (crop,), (resize,) = transform.crop_size, transform.resize_size
    side = size or crop
    geometry = Geometry(round(side * resize / crop), transform.interpolation.value)
    spec = InputSpec(side, tuple(transform.mean), tuple(transform.std), geometry)
    return cut_or_opaque(module, spec, name), f"torchvision's {name} {entry.name}"


def _timm(name: str, weights: str, size: int | None) -> tuple[Cut, str]:
    if not weights:
        with fresh():
            try:
                encoder: Encoder = timm_encoder(name, size=size or made_for(name))
            except NoSeam:
                encoder = _without_seam(name, size, pretrained=False).encoder
        return Cut(_as_timm_cuts(encoder, name).eval(), None, None), f"timm's {name}"
    full = f"{name}.{weights}"
    known = tags(name)
    if weights not in known:
        raise CossError(
            f"timm has no weights {weights!r} for {name}; it has: {', '.join(known) or 'none'}"
        )
    with fetched(f"the weights {weights} of timm's {name}"):
        try:
            encoder, head, classes = timm_with_head(full, size)
        except NoSeam:
            whole = _without_seam(full, size, pretrained=True)
            encoder, head, classes = whole.encoder, whole.head, whole.classes
    return Cut(_as_timm_cuts(encoder, full), head, classes), f"timm's {full}"


def _without_seam(name: str, size: int | None, pretrained: bool) -> Cut:
    """A timm model as a whole: its features with its linear classifier, or else its logits.

    Raises:
        CossError: it does not take images of this size, or gives neither features nor logits.
    """
    side = size or made_for(name)
    model = timm_model(name, side, pretrained=pretrained).eval()
    spec, head = input_of(model, side), model.get_classifier()
    with torch.no_grad():
        logits = trial(model, name, spec)
        plain = twin(model)
        plain.reset_classifier(0)
        features = trial(plain.eval(), name, spec)
        whole = isinstance(head, nn.Linear) and head.in_features == features.shape[1]
        if whole and torch.allclose(head(features), logits, rtol=1e-3, atol=1e-4):
            encoder = OpaqueEncoder(plain, spec, features.shape[1]).eval()
            return Cut(encoder, head, head.out_features)
    if not pretrained:  # no probe reads what an untrained classifier gives
        return Cut(OpaqueEncoder(plain, spec, features.shape[1]).eval(), None, None)
    return Cut(OpaqueEncoder(model, spec, logits.shape[1]).eval(), nn.Identity(), logits.shape[1])


def _as_timm_cuts(encoder: Encoder, name: str) -> Encoder:
    encoder.input = replace(encoder.input, geometry=timm_geometry(name, encoder.input.size))
    return encoder


@contextmanager
def fresh() -> Iterator[None]:
    """Weights that do not depend on what was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(FRESH_SEED)
        yield


@contextmanager
def fetched(
    what: str, remedy: str = "check the network, or put the file in the library's cache"
) -> Iterator[None]:
    """One line for what goes wrong while a library downloads or reads weights."""
    try:
        yield
    except CossError:
        raise
    except Exception as error:  # urllib, requests, huggingface_hub: each has its own kinds
        reason = kind_and_line(error, 160)
        raise CossError(f"{what} could not be had ({reason}); {remedy}") from error
