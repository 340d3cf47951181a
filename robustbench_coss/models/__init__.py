"""Models from anywhere: this tool's runs, torchvision and timm, other tools' files, any module."""

from __future__ import annotations

import difflib
from pathlib import Path

import safetensors

from robustbench_coss.checkpoints import (
    HEADER,
    Checkpoint,
    build_encoder,
    find_checkpoint,
    load_checkpoint,
)
from robustbench_coss.encoders.base import InputSpec
from robustbench_coss.encoders.timm_models import timm_encoder
from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.files import sha256_of
from robustbench_coss.models.foreign import FORMATS, Foreign, load_state, read_foreign
from robustbench_coss.models.libraries import cut_or_opaque, library_model, torchvision_module
from robustbench_coss.models.seams import Cut
from robustbench_coss.models.wrap import describe_input, wrap_module

__all__ = ["FORMATS", "load_model", "wrap_module"]

LIBRARIES = ("torchvision", "timm")


def load_model(
    where: str | Path,
    *,
    format: str = "auto",
    arch: str | None = None,
    allow_partial: bool = False,
    size: int | None = None,
) -> Checkpoint:
    """A model that can be measured, with its own classifier if it has one.

    Args:
        where: run folder or `encoder.safetensors` of this tool, `torchvision:NAME[:WEIGHTS]`,
            `timm:NAME[:WEIGHTS]`, or a checkpoint file of another tool.
        format: which tool wrote a file; "auto" recognises it by its keys.
        arch: architecture of a file that does not settle it: a registered name, `torchvision:NAME`
            or `timm:NAME`.
        allow_partial: load what matches although some keys do not.
        size: image side in px; None takes what the model was made for.

    Raises:
        CossError: nothing there, nothing that can be recognised or that fits, or something that
            could execute code and is therefore not opened.
    """
    if format not in FORMATS:
        near = difflib.get_close_matches(format, FORMATS, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise CossError(f"unknown format {format!r}; {hint}known: {', '.join(FORMATS)}")
    library = str(where).partition(":")[0]
    if library in LIBRARIES and not Path(where).exists():
        return library_model(str(where), size)
    path = find_checkpoint(Path(where))
    if format == "auto" and _is_own(path):
        checkpoint = load_checkpoint(path)
        made_for = checkpoint.metadata["size"]
        if size is not None and size != made_for:
            raise CossError(
                f"{checkpoint.name} was pretrained at {made_for} px, not {size}; leave out the size"
            )
        return checkpoint
    return _foreign(path, read_foreign(path, format=format, arch=arch), allow_partial, size)


def _is_own(path: Path) -> bool:
    """Whether a file was exported by this tool; files of no kind are left to the other reader."""
    with explain_os_errors("read", path):
        if path.suffix == ".safetensors" and path.stat().st_size == 0:
            return True  # whose reader says what is wrong with it
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            return HEADER in (opened.metadata() or {})
    except (safetensors.SafetensorError, ValueError, OSError):
        return path.suffix == ".safetensors"


def _foreign(path: Path, file: Foreign, allow_partial: bool, size: int | None) -> Checkpoint:
    spec = InputSpec(size or file.size)
    family, _, name = file.arch.partition(":")
    if family == "torchvision":
        module = torchvision_module(name, num_classes=file.classes or 1000)
        parts = cut_or_opaque(module, spec, name)
        load_state(module, file, path=path, allow_partial=allow_partial)
    else:
        encoder = (
            timm_encoder(name, size=spec.size)
            if family == "timm"
            else build_encoder(file.arch, size=spec.size)
        )
        inner = getattr(encoder, "model", encoder)  # what holds the keys that the file has
        load_state(inner, file, path=path, allow_partial=allow_partial)
        parts = Cut(encoder.eval(), None, None)
    own_head = parts.head is not None and file.classes is not None
    return Checkpoint(
        parts.encoder,
        path.stem,
        path,
        sha256_of(path),
        {
            "arch": file.arch,
            "width": 1.0,
            "size": spec.size,
            "method": file.method,
            "dataset": None,
            "encoder": file.encoder or None,
            "source": f"{file.format} checkpoint",
            "training": {},
        },
        parts.head if own_head else None,
        file.classes if own_head else None,
        describe_input(parts.encoder.input, f"the defaults of {file.format}")
        + (f"; its {file.encoder} network" if file.encoder else ""),
    )
