"""Building the network that a file of another tool was read as, with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.encoders.timm_models import timm_model
from robustbench_coss.encoders.timm_seams import ClassTokenViT
from robustbench_coss.errors import CossError
from robustbench_coss.models.checkpoint import build_encoder
from robustbench_coss.models.libraries import cut_or_opaque, torchvision_module
from robustbench_coss.models.other_tools import transformers as nets
from robustbench_coss.models.other_tools.find import some, some_of
from robustbench_coss.models.other_tools.foreign import Foreign, contradictions
from robustbench_coss.models.other_tools.named import named
from robustbench_coss.models.other_tools.names import NO_PART
from robustbench_coss.models.other_tools.resnets import build_clip_resnet, set_stem
from robustbench_coss.models.seams import Cut, Followed
from robustbench_coss.models.tensors import check_kinds
from robustbench_coss.models.wide_resnet import WideResNet, wide_shape
from robustbench_coss.seeds import seed_of

State = Mapping[str, Tensor]


def built(path: Path, file: Foreign, side: int, allow_partial: bool) -> tuple[Cut, list[str]]:
    """The network of a file in parts, for images of `side` px, and what of the file it leaves out.

    Raises:
        CossError: tensors of the architecture are missing; or the file has others, unless
            `allow_partial`; or the network does not take this size.
    """
    file = _with_classes(file)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("weights that a checkpoint lacks"))
        module = module_of(path, file, side)
        if isinstance(module, Encoder):
            inner = getattr(module, "model", module)  # what holds the keys that the file has
            rest, head = _take_head(file, module.dim)
            left = load_state(inner, rest, path=path, allow_partial=allow_partial)
            return Cut(module.eval(), head, rest.classes if head is None else file.classes), left
        file = _with_bias(file, module)
        left = load_state(module, file, path=path, allow_partial=allow_partial)
        spec = InputSpec(side, file.mean, file.std)
        parts = _parts(module, file, spec)
    if file.after:
        layers, width = _projection(path, file.after)
        parts = Cut(Followed(parts.encoder, layers, width).eval(), None, None)
    if file.embedding and isinstance(parts.head, nn.Linear):
        embedding = Followed(parts.encoder, parts.head, parts.head.out_features)
        parts = Cut(embedding.eval(), None, None)
    if file.classes is None or file.embedding:
        parts = replace(parts, head=None, classes=None)
    return parts, left


def _projection(path: Path, state: State) -> tuple[nn.Module, int]:
    """What open_clip puts behind a network of timm (open_clip/timm_model.py), and its outputs.

    Raises:
        CossError: it pools there as well.
    """
    names = {
        ("proj.weight",): ["proj"],
        ("mlp.fc1.weight", "mlp.fc2.weight"): ["mlp.fc1", "mlp.fc2"],
    }
    known = tuple(sorted(key for key in state if key.endswith("weight")))
    if known not in names:
        raise CossError(
            f"{path} pools its features in a way that no weight settles ({some(state)}); pass "
            f"open_clip:NAME:{path}"
        )
    layers: list[nn.Module] = []
    for name in names[known]:
        weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
        layer = nn.Linear(weight.shape[1], len(weight), bias=bias is not None)
        layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
        layers += [layer] if not layers else [nn.GELU(), layer]
    return nn.Sequential(*layers), len(weight)


def _parts(module: nn.Module, file: Foreign, spec: InputSpec) -> Cut:
    if file.pooling != "both":
        return cut_or_opaque(module, spec, file.arch)
    if file.classes is not None and not file.embedding:
        raise CossError(
            "its classifier reads one token; leave out --pooling both, which needs a probe"
        )
    return Cut(ClassTokenViT(module.eval(), spec, both=True).eval(), None, None)


def module_of(path: Path, file: Foreign, side: int) -> nn.Module:
    """The network that a file was read as, with initial weights.

    Raises:
        CossError: the architecture is not known, or cannot be built for this size.
    """
    from torchvision import models as tv

    with contradictions(path):
        module: Any = _initial(file, side)
    if file.bare_stem and hasattr(module, "relu"):
        module.relu = nn.Identity()
    if file.kind == "named" and file.stem is not None and isinstance(module, tv.ResNet):
        set_stem(module, file.stem)
    if file.heads is not None:
        _set_heads(module, file.heads)
    if file.pooling == "mean" and isinstance(getattr(module, "fc_norm", None), nn.Identity):
        module.global_pool = "avg"
    made: nn.Module = module
    return made


def _initial(file: Foreign, side: int) -> Any:
    if file.kind == "resnet":
        from robustbench_coss.models.other_tools.shaped_resnet import ShapedResNet

        assert file.stem is not None
        return ShapedResNet(file.state, file.stem, file.classes)
    if file.kind == "wide":
        shape = wide_shape(file.state)
        assert shape is not None
        return WideResNet(*shape, file.classes)
    if file.kind == "clip_resnet":
        return build_clip_resnet(file.state)
    return _named(file, side) if file.kind == "named" else _of_timm(file, side)


def _of_timm(file: Foreign, side: int) -> Any:
    if file.kind == "vit":
        return nets.build_vit(
            file.state,
            side,
            file.classes,
            heads=file.heads or 1,
            pooling=file.pooling or "class",
            quick=file.quick,
            eps=file.eps,
        )
    build = nets.build_swin if file.kind == "swin" else nets.build_convnext
    return build(file.state, side, file.classes)


def _named(file: Foreign, side: int) -> Any:
    family, _, name = file.arch.partition(":")
    if family == "torchvision":
        fixed = {"image_size": side} if name.startswith("vit_") else {}
        return torchvision_module(name, num_classes=file.classes or 1000, **fixed)
    if family == "timm":
        return timm_model(name, side, num_classes=file.classes or 0)
    return build_encoder(file.arch, size=side)


def _set_heads(module: Any, heads: int) -> None:
    for block in getattr(module, "blocks", ()):
        attention = block.attn
        dim = nets.head_width(attention.qkv.in_features, heads)
        attention.num_heads, attention.head_dim, attention.scale = heads, dim, dim**-0.5


def load_state(module: nn.Module, file: Foreign, *, path: Path, allow_partial: bool) -> list[str]:
    """Load a read encoder into a module of its architecture.

    Position embeddings of a ViT are resampled where the module's grid is another one. A classifier
    that only one of the two has does not count, and neither do the counters of batch norms.

    Args:
        module: named as torchvision or timm names the architecture.
        file: what `read_foreign` gave.
        path: for messages.
        allow_partial: leave out tensors that the module has no place for.

    Returns:
        What was left out, a few words for each key; empty unless `allow_partial`.

    Raises:
        CossError: tensors of the module are missing or of another shape, whatever is allowed; or
            others are there that it has no place for.
    """
    expected, state = module.state_dict(), dict(file.state)
    heads = ("fc.", "head.", f"{_head_name(file)}.")
    _resample_positions(module, expected, state)
    check_kinds(state, expected, path)
    missing = [
        f"missing {key}"
        for key in expected
        if key not in state
        and not NO_PART.match(key)
        and not (key.startswith(heads) and file.classes is None and "norm" not in key)
    ]
    surplus, fits = [], {}
    for key, value in state.items():
        if key not in expected:
            if not (key.startswith(heads) and file.classes is not None):
                surplus.append(f"unexpected {key}")
        elif value.shape != expected[key].shape:
            shapes = f"{list(value.shape)}, not {list(expected[key].shape)}"
            missing.append(f"{key} of shape {shapes}")
        else:
            fits[key] = value
    surplus += [
        f"{head}bias without {head}weight"
        for head in heads
        if f"{head}bias" in state and f"{head}weight" not in state
    ]
    if not any(key.endswith("weight") for key in fits):
        raise CossError(
            f"{path}: no weight fits {file.arch}; pass another --arch NAME or --weights "
            f"KEY:PREFIX; the file has {some(state)}"
        )
    if missing:
        raise CossError(
            f"{path} ({file.format}) does not hold the weights of {file.arch}, "
            f"{some_of(missing + surplus)}; pass another --arch NAME, or --weights KEY:PREFIX if "
            "they lie elsewhere in it"
        )
    if surplus and not allow_partial:
        raise CossError(
            f"{path} ({file.format}) holds more than {file.arch} has a place for, "
            f"{some_of(surplus)}; pass another --arch NAME, or --allow-partial to leave them out"
        )
    for key, value in fits.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise CossError(
                f"{path}: {key} holds values that are no numbers (NaN or infinity): its training "
                "failed or the file is damaged; pass an earlier checkpoint"
            )
    module.load_state_dict(fits, strict=False)
    return surplus


def _resample_positions(module: nn.Module, expected: State, state: dict[str, Tensor]) -> None:
    """Resample the position embeddings of a ViT for another grid, as timm does."""
    old, new = state.get("pos_embed"), expected.get("pos_embed")
    if old is None or new is None or old.dim() != 3 or old.shape == new.shape:
        return
    prefix, grid = getattr(module, "num_prefix_tokens", 0), getattr(module, "patch_embed", None)
    prefix = 0 if getattr(module, "no_embed_class", False) else prefix
    grid = getattr(grid, "grid_size", None)
    side = round((old.shape[1] - prefix) ** 0.5)
    if grid is None or old.shape[-1] != new.shape[-1] or side**2 + prefix != old.shape[1]:
        return
    from timm.layers import resample_abs_pos_embed

    state["pos_embed"] = resample_abs_pos_embed(old, list(grid), num_prefix_tokens=prefix)


# ---- classifiers ----


def _head_name(file: Foreign) -> str:
    """What an architecture calls its last linear layer; "" if unknown."""
    if file.kind == "named":
        return named(file.arch).classifier
    known = {"resnet": "fc", "wide": "fc", "vit": "head", "clip_resnet": "head.proj"}
    return known.get(file.kind, "head.fc")


def _with_classes(file: Foreign) -> Foreign:
    """The number of classes of a plain file whose architecture has another name for its head."""
    weight = file.state.get(f"{_head_name(file)}.weight")
    if file.format != "torchvision" or file.classes is not None or weight is None:
        return file
    return replace(file, classes=len(weight)) if weight.dim() == 2 else file


def _with_bias(file: Foreign, module: nn.Module) -> Foreign:
    """A linear layer without bias has one of zeros."""
    head = _head_name(file)
    weight, key = file.state.get(f"{head}.weight"), f"{head}.bias"
    if (
        file.classes is None
        or weight is None
        or key not in module.state_dict().keys() - file.state.keys()
    ):
        return file
    return replace(file, state=file.state | {key: torch.zeros(len(weight))})


def _take_head(file: Foreign, dim: int) -> tuple[Foreign, nn.Module | None]:
    """The file without its classifier, and that as a layer on features [B, dim], if it fits."""
    weight, bias = (file.state.get(f"fc.{part}") for part in ("weight", "bias"))
    if file.classes is None or weight is None:
        return file, None
    if weight.shape != (file.classes, dim) or (bias is not None and len(bias) != file.classes):
        return replace(file, classes=None), None  # then it is named with what else does not fit
    head = nn.Linear(dim, file.classes, bias=bias is not None)
    head.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    rest = {k: v for k, v in file.state.items() if k not in ("fc.weight", "fc.bias")}
    return replace(file, state=rest), head.eval()
