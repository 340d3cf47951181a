"""Models from anywhere: runs, controls, torchvision and timm, other tools' files, any module."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn

from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.encoders.timm_models import classifier_name
from robustbench_coss.errors import CossError, did_you_mean
from robustbench_coss.files import sha256_of
from robustbench_coss.models.checkpoint import (
    HEADER,
    Checkpoint,
    build_encoder,
    find_checkpoint,
    load_checkpoint,
)
from robustbench_coss.models.controls import FAMILY, control
from robustbench_coss.models.hub.folders import is_hub_folder, model_in_folder
from robustbench_coss.models.hub.libraries import HUB, open_clip_model, timm_from_hub
from robustbench_coss.models.hub.read import transformers_model
from robustbench_coss.models.libraries import cut_or_opaque, library_model, torchvision_module
from robustbench_coss.models.other_tools import (
    FORMATS,
    Colour,
    Foreign,
    load_state,
    read_foreign,
    some_of,
)
from robustbench_coss.models.other_tools_reading import Content, read_file
from robustbench_coss.models.seams import Cut
from robustbench_coss.models.tensors import check_kinds
from robustbench_coss.models.wrap import describe_input, wrap_module
from robustbench_coss.reading import check_regular
from robustbench_coss.seeds import seed_of

__all__ = ["FORMATS", "load_model", "wrap_module"]

LIBRARIES = ("torchvision", "timm", "hf", "open_clip")

SHOWN_PARTS = 5
"""Of a path at most: `run/lightning_logs/version_0/checkpoints/last.ckpt`."""


def load_model(
    where: str | Path,
    *,
    format: str = "auto",
    arch: str | None = None,
    allow_partial: bool = False,
    size: int | None = None,
    dataset: str | None = None,
    name: str | None = None,
) -> Checkpoint:
    """A model that can be measured, with its own classifier if it has one.

    Args:
        where: run folder or `encoder.safetensors` of this tool, `torchvision:NAME[:WEIGHTS]`,
            `timm:NAME[:WEIGHTS]`, `timm:hf-hub:ORG/NAME[@REVISION]`, `hf:ORG/NAME[@REVISION]`,
            `open_clip:NAME:TAG` or `:FILE`, a folder of transformers, timm or open_clip,
            `control:pixels`, `control:untrained:ARCH[:WIDTH][:SEED][:no-mlp]`, or a checkpoint file
            of another tool.
        format: which tool wrote a file; "auto" recognises it by its keys.
        arch: architecture of a file that does not settle it: a registered name, `torchvision:NAME`
            or `timm:NAME`.
        allow_partial: load what matches although some keys do not.
        size: image side in px; None takes what the model was made for, or the data set's default.
        dataset: what will be measured on, which a control has its size from.
        name: in records and tables; None takes that of the run folder, file or network.

    Raises:
        CossError: nothing there, nothing that can be recognised or that fits, or something that
            could execute code and is therefore not opened.
    """
    if name is not None and not name.strip():
        raise CossError("the name of a model is empty")
    found = _load(where, format, arch, allow_partial, size, dataset)
    return found if name is None else replace(found, name=name)


def _load(
    where: str | Path,
    format: str,
    arch: str | None,
    allow_partial: bool,
    size: int | None,
    dataset: str | None,
) -> Checkpoint:
    if format not in FORMATS:
        raise CossError(
            f"unknown format {format!r}; "
            + did_you_mean(format, FORMATS, f"known: {', '.join(FORMATS)}")
        )
    if size is not None and size < 1:
        raise CossError(f"the image size must be at least 1 px, got {size}")
    library = str(where).partition(":")[0]
    if library in (*LIBRARIES, FAMILY) and not Path(where).exists():
        if arch is not None or format != "auto":
            raise CossError(f"{where} names its own architecture; leave out --arch and --format")
        if library == FAMILY:
            return control(str(where), size=size, dataset=dataset)
        return _named(str(where), library, size)
    if is_hub_folder(Path(where)):
        if arch is not None or format != "auto":
            raise CossError(f"{where} states its own architecture; leave out --arch and --format")
        return model_in_folder(Path(where), size)
    path = find_checkpoint(Path(where))
    if path.name == "last.ckpt" and (path.parent / "recipe.yaml").is_file():
        raise CossError(
            f"{path} is what training resumes from; pass the run folder {path.parent} instead"
        )
    if format == "auto" and _is_own(path):
        checkpoint = load_checkpoint(path)
        made_for = checkpoint.metadata["size"]
        if arch not in (None, checkpoint.metadata["arch"]):
            raise CossError(
                f"{checkpoint.name} is of {checkpoint.metadata['arch']}, not {arch}; leave out "
                "--arch"
            )
        if size is not None and size != made_for:
            raise CossError(
                f"{checkpoint.name} was pretrained at {made_for} px, not {size}; leave out the size"
            )
        return checkpoint
    content = read_file(path)
    file = read_foreign(path, format=format, arch=arch, read=content)
    asked = (format, arch, size) != ("auto", None, None)
    unasked = _unasked(path, content) if asked else None
    del content  # more than the weights, often
    return _foreign(path, file, allow_partial, size, unasked)


def _named(spec: str, library: str, size: int | None) -> Checkpoint:
    hub = f"timm:{HUB}:"
    if spec.startswith(hub):
        return timm_from_hub(spec.removeprefix(hub), size)
    if library == "hf":
        return transformers_model(spec, size)
    return open_clip_model(spec, size) if library == "open_clip" else library_model(spec, size)


def _is_own(path: Path) -> bool:
    """Whether a file was exported by this tool; files of no kind are left to the other reader."""
    if check_regular(path) == 0 and path.suffix == ".safetensors":
        return True  # whose reader says what is wrong with it
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            return HEADER in (opened.metadata() or {})
    except Exception:  # the library has many kinds
        return path.suffix == ".safetensors"


def _foreign(
    path: Path,
    file: Foreign,
    allow_partial: bool,
    size: int | None,
    unasked: dict[str, Any] | None,
) -> Checkpoint:
    side = size or file.size
    family, _, name = file.arch.partition(":")
    head_name = _head_name(family, name)
    file = _with_classes(file, head_name)
    some = torch.empty(0)
    check_kinds(file.state, {f"{head_name}.{part}": some for part in ("weight", "bias")}, path)
    with torch.random.fork_rng(devices=[]):
        # What a file lacks is drawn, the same every time.
        torch.manual_seed(seed_of("weights that a checkpoint lacks"))
        if family == "torchvision":
            fixed = {"image_size": side} if name.startswith("vit_") else {}
            module = torchvision_module(name, num_classes=file.classes or 1000, **fixed)
            parts = cut_or_opaque(module, InputSpec(side), name)
            file = _with_bias(file, module, head_name)
            left = load_state(module, file, path=path, allow_partial=allow_partial)
        else:
            encoder = build_encoder(file.arch, size=side)
            inner = getattr(encoder, "model", encoder)  # what holds the keys that the file has
            rest, head = _take_head(file, encoder.dim, head_name)
            left = load_state(inner, rest, path=path, allow_partial=allow_partial)
            parts = Cut(encoder.eval(), head, file.classes)
    if file.mean is not None and file.std is not None:
        _set_colours(parts.encoder, file.mean, file.std)
    own_head = parts.head is not None and file.classes is not None
    sha256, reading = sha256_of(path), _reading(file, side)
    if left or unasked not in (None, reading):  # another model than the file says
        sha256 = sha256_of({"file": sha256, "reading": reading, "left": left})
    return Checkpoint(
        parts.encoder,
        path.stem,
        path,
        sha256,
        {
            "arch": file.arch,
            "width": 1.0,
            "size": side,
            "method": file.method,
            "dataset": None,
            "encoder": file.encoder or None,
            "source": f"{file.format} checkpoint",
            "file": _end_of(path),
            "training": {},
        },
        parts.head if own_head else None,
        file.classes if own_head else None,
        describe_input(parts.encoder.input, f"the defaults of {file.format}")
        + (f"; its {file.encoder} network" if file.encoder else "")
        + (f"; loaded in part, {some_of(left)}" if left else ""),
    )


def _end_of(path: Path) -> str:
    """What tells a file from others of its name, and as little as may be of where it lies."""
    path, home = path.resolve(), Path.home()
    path = path.relative_to(home) if path.is_relative_to(home) else path.relative_to(path.anchor)
    return "/".join(path.parts[-SHOWN_PARTS:])


def _reading(file: Foreign, side: int) -> dict[str, Any]:
    """All that a file's weights do not say themselves of the network that they make, JSON-able."""
    told = {f.name: getattr(file, f.name) for f in fields(file) if f.name not in ("state", "size")}
    return told | {"size": side, "keys": sorted(file.state)}


def _unasked(path: Path, content: Content) -> dict[str, Any]:
    """How a file is read if nothing is said of it; {} if it is not."""
    try:
        file = read_foreign(path, read=content)
        file = _with_classes(file, _head_name(*file.arch.partition(":")[::2]))
    except CossError:
        return {}
    return _reading(file, file.size)


def _head_name(family: str, name: str) -> str:
    """What a torchvision or timm architecture calls its last linear layer; "" if unknown."""
    if family == "timm":
        return classifier_name(name)
    if family != "torchvision":
        return "fc"
    linear = [k for k, m in torchvision_module(name).named_modules() if isinstance(m, nn.Linear)]
    return linear[-1] if linear else ""


def _with_bias(file: Foreign, module: nn.Module, head: str) -> Foreign:
    """A linear layer without bias has one of zeros."""
    weight, key = file.state.get(f"{head}.weight"), f"{head}.bias"
    if (
        file.classes is None
        or weight is None
        or key not in module.state_dict().keys() - file.state.keys()
    ):
        return file
    return replace(file, state=file.state | {key: torch.zeros(len(weight))})


def _with_classes(file: Foreign, head: str) -> Foreign:
    """The number of classes of a plain file whose architecture has another name for its head."""
    weight = file.state.get(f"{head}.weight")
    if file.format != "torchvision" or file.classes is not None or weight is None:
        return file
    return replace(file, classes=len(weight)) if weight.dim() == 2 else file


def _take_head(file: Foreign, dim: int, name: str) -> tuple[Foreign, nn.Module | None]:
    """The file without its classifier, and that as a layer on features [B, dim], if it fits."""
    weight, bias = (file.state.get(f"{name}.{part}") for part in ("weight", "bias"))
    if file.classes is None or weight is None:
        return file, None
    if weight.shape != (file.classes, dim) or (bias is not None and len(bias) != file.classes):
        return replace(file, classes=None), None  # then it is named with what else does not fit
    head = nn.Linear(dim, file.classes, bias=bias is not None)
    head.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    taken = (f"{name}.weight", f"{name}.bias")
    return replace(file, state={k: v for k, v in file.state.items() if k not in taken}), head.eval()


def _set_colours(encoder: Encoder, mean: Colour, std: Colour) -> None:
    """Normalise by what the weights were trained with, not by what the architecture states."""
    encoder.input = replace(encoder.input, mean=mean, std=std)
    for buffer, values in ((encoder.mean, mean), (encoder.std, std)):
        buffer.copy_(torch.tensor(values).view(1, 3, 1, 1))
