"""Encoders out of checkpoint files that other self-supervised tools wrote.

Reading executes nothing: a file holds tensors and plain values, or it is refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from robustbench_coss.errors import CossError, did_you_mean
from robustbench_coss.models.other_tools_architectures import (
    features_of,
    heads_of,
    infer_architecture,
    kernel_of,
    size_of,
)
from robustbench_coss.models.other_tools_formats import (
    FORMATS,
    TABLE,
    Format,
    Source,
    State,
    find_source,
    lightly_bare_stem,
    select,
    tensors_at,
)
from robustbench_coss.models.other_tools_reading import Content, read_file
from robustbench_coss.models.tensors import check_kinds, ordinary

__all__ = ["FORMATS", "Foreign", "load_state", "read_foreign"]

Colour = tuple[float, float, float]

IMAGENET: tuple[Colour, Colour] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of pixels in [0, 1] that most tools normalise with."""

SOLO_CIFAR: dict[int, tuple[Colour, Colour]] = {
    10: ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    100: ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
"""solo-learn's, by the number of classes (solo/data/pretrain_dataloader.py, `MEANS_N_STD`)."""

SOLO_CIFAR_PADDING = 2
"""Padding of solo-learn's 3×3 stem (solo/methods/base.py); other tools pad by 1."""

SHOWN = 5
"""Keys that an error message names."""


@dataclass(frozen=True)
class Foreign:
    """An encoder out of another tool's file.

    Attributes:
        format: recognised or given.
        arch: `torchvision:NAME`, `timm:NAME`, or a registered encoder for CIFAR stems.
        state: weights in torchvision's or timm's names; with the classifier (`fc` or `head`) if
            the file has one.
        classes: of that classifier, else None.
        encoder: "online", "teacher" or "" if the file has only one network.
        method: what it was trained with, if the file says so.
        size: image side in px that it was made for.
        mean: of pixels in [0, 1] that it was trained with; None leaves it to the architecture.
        std: likewise.
        padding: of the first convolution, if it is not the architecture's.
        bare_stem: whether no ReLU follows the first batch norm.
        heads: of attention, if not the architecture's: no weight has a shape that shows them.
    """

    format: str
    arch: str
    state: dict[str, Tensor]
    classes: int | None
    encoder: str
    method: str | None
    size: int
    mean: Colour | None = None
    std: Colour | None = None
    padding: int | None = None
    bare_stem: bool = False
    heads: int | None = None


def read_foreign(
    path: Path, *, format: str = "auto", arch: str | None = None, read: Content | None = None
) -> Foreign:
    """The encoder in a checkpoint file of another tool.

    Args:
        path: a file of `torch.save` or safetensors.
        format: one of `FORMATS`.
        arch: architecture; None infers it from the names and shapes of the weights.
        read: the content of the file, if it was read already.

    Raises:
        CossError: unknown format, no such file, a truncated one, one that holds more than tensors
            and plain values, one that is not of the format or of none, or an architecture that
            cannot be inferred.
    """
    if format not in FORMATS:
        raise CossError(
            f"unknown format {format!r}; "
            + did_you_mean(format, FORMATS, f"known: {', '.join(FORMATS)}")
        )
    content, export = read or read_file(path)
    form, source = _recognise(path, content, format, arch)
    state = ordinary(select(form, source, content), path)
    method = form.method or _text(export, "method") or _method(content.get("hyper_parameters"))
    classes = _classes(state, source.head or ("fc|head" if form.name == "mmpretrain" else ""))
    own = _text(export, "arch") or ""
    small = kernel_of(state) == 3
    found = arch or (own if own.startswith("timm:") else infer_architecture(state))
    if found is None:
        remedy = (
            "it is an export of a run of this tool: measure the run itself"
            if export
            else "pass --arch NAME (torchvision:NAME, timm:NAME or a name of `coss-bench list`)"
        )
        raise CossError(
            f"{path} ({form.name}) does not settle its architecture; {remedy}; "
            f"it has {_some(state)}"
        )
    mean, std = _colours(form, content, export, small, is_vit="pos_embed" in state, classes=classes)
    return Foreign(
        format=form.name,
        arch=found,
        state=state,
        classes=classes,
        encoder=source.encoder,
        method=method,
        size=size_of(state, export),
        mean=mean,
        std=std,
        padding=SOLO_CIFAR_PADDING if small and form.name == "solo-learn" else None,
        bare_stem=form.name == "lightly" and lightly_bare_stem(source, content),
        heads=heads_of(path, form, content, state, own or arch),
    )


def load_state(
    module: nn.Module, foreign: Foreign, *, path: Path, allow_partial: bool
) -> list[str]:
    """Load a read encoder into a module of its architecture, and make the module what it was.

    Position embeddings of a ViT are resampled where the module's grid is another one. A classifier
    that only one of the two has does not count, and neither do the counters of batch norms.

    Args:
        module: named as torchvision or timm names the architecture.
        foreign: what `read_foreign` gave.
        path: for messages.
        allow_partial: load what fits although keys are missing, unexpected or of another shape.

    Returns:
        What does not fit, a few words for each key; empty unless `allow_partial`.

    Raises:
        CossError: keys that do not match, or none that does.
    """
    expected, state = module.state_dict(), dict(foreign.state)
    heads = ("fc.", "head.")
    _resample_positions(module, expected, state)
    check_kinds(state, expected, path)
    problems = [
        f"missing {key}"
        for key in expected
        if key not in state
        and not key.endswith("num_batches_tracked")
        and not (key.startswith(heads) and foreign.classes is None)
    ]
    fits = {}
    for key, value in state.items():
        if key not in expected:
            if not (key.startswith(heads) and foreign.classes is not None):
                problems.append(f"unexpected {key}")
        elif value.shape != expected[key].shape:
            shapes = f"{list(value.shape)}, not {list(expected[key].shape)}"
            problems.append(f"{key} of shape {shapes}")
        else:
            fits[key] = value
    problems += [
        f"{head}bias without {head}weight"
        for head in heads
        if f"{head}bias" in state and f"{head}weight" not in state
    ]
    if not any(key.endswith("weight") for key in fits):
        raise CossError(
            f"{path}: no weight fits {foreign.arch}; pass another --arch NAME or --format NAME; "
            f"the file has {_some(state)}"
        )
    if problems and not allow_partial:
        raise CossError(
            f"{path} ({foreign.format}) does not fit {foreign.arch}, {some_of(problems)}; pass "
            "another --arch NAME, or --allow-partial to load what fits"
        )
    module.load_state_dict(fits, strict=False)
    first = getattr(module, "conv1", None)
    if foreign.padding is not None and isinstance(first, nn.Conv2d):
        first.padding = (foreign.padding, foreign.padding)
    if foreign.bare_stem and hasattr(module, "relu"):
        module.relu = nn.Identity()
    if foreign.heads is not None:
        for block in cast(Any, getattr(module, "blocks", ())):
            attention = block.attn
            dim = attention.qkv.in_features // foreign.heads
            attention.num_heads, attention.head_dim = foreign.heads, dim
            attention.scale = dim**-0.5
    return problems


def some_of(problems: Sequence[str]) -> str:
    """How many keys do not fit, and the first few of them."""
    count = f"{len(problems)} key{'s' if len(problems) > 1 else ''}"
    return f"{count}: {', '.join(problems[:SHOWN])}{', …' if len(problems) > SHOWN else ''}"


# ---- reading ----


def _recognise(
    path: Path, content: dict[str, Any], name: str, arch: str | None
) -> tuple[Format, Source]:
    for form in TABLE:
        if name == form.name or (name == "auto" and form.recognise(content)):
            source = find_source(form, content)
            if source is not None:
                return form, source
    if arch is not None and name in ("auto", "torchvision"):  # any names may be that one's
        for source in TABLE[-1].sources:
            names = tensors_at(content, source.root)
            if names and all(key.startswith(source.prefix) for key in names):
                return TABLE[-1], source
    keys = _some(dict.fromkeys(_leaves(content)))
    if name == "auto":
        raise CossError(
            f"{path} is of no known format; it has {keys}; save the encoder's state dict alone "
            "in torchvision's or timm's names"
        )
    raise CossError(
        f"{path} is not laid out as {name} saves its checkpoints; it has {keys}; try --format auto"
    )


def _leaves(content: dict[str, Any]) -> list[str]:
    """Names of the tensors of a file, with the dictionaries they lie in."""
    found = []
    for key, value in content.items():
        if isinstance(value, Tensor):
            found.append(str(key))
        elif isinstance(value, dict) and key not in ("optimizer", "optimizer_states"):
            found += [f"{key}/{inner}" for inner in _leaves(value)]
    return found


def _some(keys: Mapping[str, Any]) -> str:
    """A few of many keys, for a message: text from a file, so only printable and short."""
    shown = ["".join(c for c in key[:60] if c.isprintable()) for key in list(keys)[:SHOWN]]
    return f"{', '.join(shown) or 'no keys'}{', …' if len(keys) > SHOWN else ''}"


# ---- what the weights say ----


def _text(export: Mapping[str, Any], key: str) -> str | None:
    value = export.get(key)
    return value if isinstance(value, str) else None


def _method(parameters: Any) -> str | None:
    """The method that Lightning's hyper parameters name, if they do."""
    if isinstance(parameters, argparse.Namespace):
        parameters = vars(parameters)
    return _text(parameters, "method") if isinstance(parameters, dict) else None


def _classes(state: State, names: str) -> int | None:
    """How many classes the classifier has; None if there is none, or its architecture will tell."""
    features = features_of(state)
    for name in names.split("|") if names else ():
        weight = state.get(f"{name}.weight")
        if weight is not None and weight.dim() == 2 and features is not None:
            return len(weight) if weight.shape[1] == features else None
    return None


def _colours(
    form: Format,
    content: dict[str, Any],
    export: Mapping[str, Any],
    small: bool,
    is_vit: bool,
    classes: int | None,
) -> tuple[Colour, Colour] | tuple[None, None]:
    """Mean and standard deviation that pixels were normalised with.

    A plain ViT without classifier is taken for a self-supervised one (DINO, MAE), and those are
    trained with ImageNet's; timm's own configurations of the same architectures say 0.5.
    """
    stated = [export.get(key) for key in ("mean", "std")]
    if all(
        isinstance(value, list) and len(value) == 3 and all(isinstance(v, float) for v in value)
        for value in stated
    ):
        return cast("tuple[Colour, Colour]", tuple(tuple(cast(Any, value)) for value in stated))
    if form.name == "solo-learn" and small:
        probe = content["state_dict"].get("classifier.weight")
        if probe is not None and len(probe) in SOLO_CIFAR:
            return SOLO_CIFAR[len(probe)]
    if form.imagenet or (is_vit and classes is None):
        return IMAGENET
    return None, None


def _resample_positions(module: nn.Module, expected: State, state: State) -> None:
    """Resample the position embeddings of a ViT for another grid, as timm does."""
    old, new = state.get("pos_embed"), expected.get("pos_embed")
    if old is None or new is None or old.dim() != 3 or old.shape == new.shape:
        return
    prefix, grid = getattr(module, "num_prefix_tokens", 0), getattr(module, "patch_embed", None)
    grid = getattr(grid, "grid_size", None)
    side = round((old.shape[1] - prefix) ** 0.5)
    if grid is None or old.shape[-1] != new.shape[-1] or side**2 + prefix != old.shape[1]:
        return
    from timm.layers import resample_abs_pos_embed

    state["pos_embed"] = resample_abs_pos_embed(old, list(grid), num_prefix_tokens=prefix)
