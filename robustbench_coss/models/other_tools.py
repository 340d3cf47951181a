"""Encoders out of checkpoint files that other self-supervised tools wrote.

Reading executes nothing: a file holds tensors and plain values, or it is refused.
"""

from __future__ import annotations

import argparse
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors
import torch
from torch import Tensor, nn

from robustbench_coss.errors import CossError, did_you_mean, explain_os_errors
from robustbench_coss.models.export import SOURCE
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
    zero_class_position,
)

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

MOCOV3_HEADS = {192: 12, 384: 12}
"""Attention heads of MoCo v3's ViT-S by embedding (moco-v3/vits.py), and of the ViT-Ti that
solo-learn adds (solo/backbones/vit/vit_mocov3.py). timm's have 3 and 6, with the same weights."""

RESNETS = {
    # blocks per stage, has bottlenecks, shape of layer1.0.conv2's weight: torchvision's name
    ((2, 2, 2, 2), False, (64, 64)): "resnet18",
    ((3, 4, 6, 3), False, (64, 64)): "resnet34",
    ((3, 4, 6, 3), True, (64, 64)): "resnet50",
    ((3, 4, 23, 3), True, (64, 64)): "resnet101",
    ((3, 8, 36, 3), True, (64, 64)): "resnet152",
    ((3, 4, 6, 3), True, (128, 128)): "wide_resnet50_2",
    ((3, 4, 23, 3), True, (128, 128)): "wide_resnet101_2",
    ((3, 4, 6, 3), True, (128, 4)): "resnext50_32x4d",
    ((3, 4, 23, 3), True, (256, 8)): "resnext101_32x8d",
    ((3, 4, 23, 3), True, (256, 4)): "resnext101_64x4d",
}

OWN_CIFAR = ("resnet18", "resnet50")
"""Registered encoders that have the CIFAR stem for small images."""

VITS = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large"}
"""timm's name of a ViT by embedding and depth (Dosovitskiy et al. 2021; Touvron et al. 2021)."""

SIZE, CIFAR_SIZE = 224, 32

SHOWN = 5
"""Keys that an error message names."""

# What tools keep beside their tensors and what constructs nothing but values: the arguments of a
# run (DINO) and numbers of numpy (metrics in Lightning's callbacks), under the names that numpy 1
# and 2 give the same function. The classes of data types are what `numpy.dtype` makes.
_SCALAR = np.float64(0).__reduce__()[0]
ALLOWED: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]


class Ignored:
    """Stands for a value that is not needed: takes any arguments and state, and drops them."""

    def __new__(cls, *_: Any) -> Ignored:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


IGNORED = (
    # Histories of losses, which mmengine keeps in every checkpoint that it saves while training
    # (mmengine/logging/history_buffer.py), and the arrays in them.
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    # Folders among the arguments of a run.
    "pathlib.PosixPath",
    "pathlib._local.PosixPath",
)
"""Names in whose place a file gets `Ignored`: what they name is neither imported nor called."""


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


def read_foreign(path: Path, *, format: str = "auto", arch: str | None = None) -> Foreign:
    """The encoder in a checkpoint file of another tool.

    Args:
        path: a file of `torch.save` or safetensors.
        format: one of `FORMATS`.
        arch: architecture; None infers it from the names and shapes of the weights.

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
    content, export = _read(path)
    form, source = _recognise(path, content, format, arch)
    state = select(form, source, content)
    method = form.method or _text(export, "method") or _method(content.get("hyper_parameters"))
    state, classes = _classifier(
        state, source.head or ("fc|head" if form.name == "mmpretrain" else "")
    )
    own = _text(export, "arch") or ""
    small = _kernel(state) == 3
    found = arch or (own if own.startswith("timm:") else _infer(state))
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
        size=_size(state, export),
        mean=mean,
        std=std,
        padding=SOLO_CIFAR_PADDING if small and form.name == "solo-learn" else None,
        bare_stem=form.name == "lightly" and lightly_bare_stem(source, content),
        heads=_heads(path, form, content, state, own or arch),
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


def _read(path: Path) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """A file's content, and what an export of this tool says about itself, else nothing."""
    if path.is_dir():
        raise CossError(f"{path} is a folder; pass a checkpoint file")
    with explain_os_errors("read", path), path.open("rb") as file:
        head = file.read(9)
    export: Any = None
    if head[8:9] == b"{":
        content, export = _read_safetensors(path)
    else:
        content = _read_torch(path, head)
        if isinstance(content, dict):
            export = content.get(SOURCE)
    if not isinstance(content, dict) or not _holds_tensor(content):
        raise CossError(
            f"{path} holds no tensors under names; pass a checkpoint or a saved state dict"
        )
    return content, export if isinstance(export, dict) else {}


def _read_safetensors(path: Path) -> tuple[dict[str, Any], Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            stated = (opened.metadata() or {}).get(SOURCE)
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError) as error:
        raise CossError(
            f"{path} is truncated or not a safetensors file ({error}); copy it again"
        ) from error
    export: Any = None
    if stated is not None:
        with suppress(ValueError):
            export = json.loads(stated)
    return tensors, export


def _read_torch(path: Path, head: bytes) -> Any:
    zipped = zipfile.is_zipfile(path)
    if head[:2] == b"PK" and not zipped:
        raise CossError(f"{path} is truncated; copy it again")
    try:
        with torch.serialization.safe_globals(ALLOWED + [(Ignored, name) for name in IGNORED]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # pickle, zip and torch have their own kinds
        refused = re.search(r"GLOBAL (\S+)|global (\S+) ", str(error))
        if refused:
            name = refused.group(1) or refused.group(2)
            raise CossError(
                f"{path} holds an object of type {name}, which is not opened: that could execute "
                "code; load it with the tool that wrote it and save the state dict alone"
            ) from error
        reason = " ".join(str(error).split())[:100]
        raise CossError(
            f"{path} is truncated or not a checkpoint ({type(error).__name__}: {reason}); "
            "copy it again"
        ) from error


def _holds_tensor(content: Any) -> bool:
    if isinstance(content, dict):
        return any(_holds_tensor(value) for value in content.values())
    return isinstance(content, Tensor)


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


def _classifier(state: State, names: str) -> tuple[State, int | None]:
    """Split nothing off, but say how many classes the classifier has; drop one that cannot fit."""
    for name in names.split("|") if names else ():
        weight, bias = state.get(f"{name}.weight"), state.get(f"{name}.bias")
        if weight is None or weight.dim() != 2:
            continue
        if _features(state) is None:  # no ResNet or ViT: its architecture will tell
            return state, None
        if weight.shape[1] == _features(state) and bias is not None and len(weight) == len(bias):
            return state, len(weight)
        return {k: v for k, v in state.items() if not k.startswith(f"{name}.")}, None
    return state, None


def _features(state: State) -> int | None:
    """Features that a ResNet or a ViT gives."""
    if "norm.weight" in state:
        return len(state["norm.weight"])
    for norm in ("bn3", "bn2"):
        value = state.get(f"layer4.0.{norm}.weight")
        if value is not None:
            return len(value)
    return None


def _kernel(state: State) -> int | None:
    """Kernel side of a ResNet's first convolution."""
    weight = state.get("conv1.weight")
    return weight.shape[-1] if weight is not None and weight.dim() == 4 else None


def _infer(state: State) -> str | None:
    """The architecture that names and shapes settle, or None."""
    if "patch_embed.proj.weight" in state:
        return _infer_vit(state)
    stem, inner = state.get("conv1.weight"), state.get("layer1.0.conv2.weight")
    if stem is None or inner is None or stem.dim() != 4 or inner.dim() != 4:
        return None
    counts = tuple(
        len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")})
        for stage in range(1, 5)
    )
    bottleneck = "layer1.0.conv3.weight" in state
    name = RESNETS.get((cast(Any, counts), bottleneck, cast(Any, tuple(inner.shape[:2]))))
    if name is None or tuple(stem.shape[:2]) != (64, 3):
        return None
    if stem.shape[-1] == 3:
        return name if name in OWN_CIFAR else None
    return f"torchvision:{name}" if stem.shape[-1] == 7 else None


def _infer_vit(state: State) -> str | None:
    patch, hidden = state["patch_embed.proj.weight"], state.get("blocks.0.mlp.fc1.weight")
    positions = state.get("pos_embed")
    if patch.dim() != 4 or hidden is None or positions is None or "cls_token" not in state:
        return None
    dim = patch.shape[0]
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    name = VITS.get((dim, depth))
    plain = hidden.shape[0] == 4 * dim and "blocks.0.ls1.gamma" not in state
    if name is None or not plain or patch.shape[1] != 3 or patch.shape[-1] not in (8, 16, 32):
        return None
    return f"timm:vit_{name}_patch{patch.shape[-1]}_224"


def _size(state: State, export: Mapping[str, Any]) -> int:
    """Image side in px: as the export or the grid of position embeddings says, else by the stem."""
    stated = export.get("size")
    if isinstance(stated, int) and stated > 0:
        return stated
    positions, patch = state.get("pos_embed"), state.get("patch_embed.proj.weight")
    if positions is not None and positions.dim() == 3 and patch is not None:
        side = round((positions.shape[1] - 1) ** 0.5)
        if side**2 + 1 == positions.shape[1]:
            return int(side * patch.shape[-1])
    return CIFAR_SIZE if _kernel(state) == 3 else SIZE


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


def _heads(
    path: Path, form: Format, content: dict[str, Any], state: State, arch: str | None
) -> int | None:
    """Attention heads where they are not those of timm's model of the same shapes.

    Raises:
        CossError: a plain file that may be MoCo v3's or not.
    """
    if not zero_class_position(state):
        return None
    heads = MOCOV3_HEADS.get(state["pos_embed"].shape[-1])
    if heads is None or form.name in ("mocov3", "mmpretrain"):
        return heads  # mmpretrain/models/selfsup/mocov3.py: `mocov3-small`
    if form.name == "solo-learn":  # its MAE has such positions too, and a decoder
        names = content["state_dict"]
        return None if any(key.startswith("decoder.") for key in names) else heads
    if form.name == "torchvision" and arch is None:
        raise CossError(
            f"{path} has fixed position embeddings as MoCo v3's, which has {heads} attention heads "
            "where timm's model has fewer; pass --format mocov3, or --arch timm:NAME if it is not"
        )
    return None


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
