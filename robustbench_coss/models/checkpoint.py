"""Exported encoders: `encoder.safetensors`, weights with what is needed to rebuild and trust them.

safetensors holds arrays and text only: reading one executes nothing.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import nn

from robustbench_coss import registry
from robustbench_coss.encoders.base import Encoder
from robustbench_coss.encoders.timm_models import timm_encoder
from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.files import canonical_json, sha256_of, write_atomically

FORMAT = "robustbench-coss encoder 1"
HEADER = "robustbench-coss"
FILE_NAME = "encoder.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded encoder and where it came from.

    Attributes:
        encoder: in eval mode, on the CPU.
        name: the run folder's name, else the file's stem.
        path: the file; None for a model that is none.
        sha256: of that file, with what was left out if it was loaded in part; else of the model's
            class and tensors.
        metadata: arch, width, size, method, encoder ("online" or "teacher"), dataset (what it was
            pretrained on), training (epochs, batch size, seed, …), parameters; for models of other
            tools also source, what they were read from.
        head: the model's own classifier, [B, D] to [B, K] logits; None if a probe is needed.
        classes: K of that head.
        preprocessing: in one line, for people; "" for this tool's own.
    """

    encoder: Encoder
    name: str
    path: Path | None
    sha256: str
    metadata: dict[str, Any]
    head: nn.Module | None = None
    classes: int | None = None
    preprocessing: str = ""


def save_encoder(path: Path, encoder: Encoder, metadata: dict[str, Any]) -> None:
    """Write an encoder atomically.

    `metadata` must hold what `build_encoder` needs: arch, size and width, and `mlp` if given.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
    # One key: safetensors writes several in no fixed order; equal encoders should be equal files.
    header = {HEADER: canonical_json({"format": FORMAT, "metadata": metadata})}
    write_atomically(path, safetensors.torch.save(tensors, metadata=header))


def build_encoder(arch: str, *, size: int, width: float = 1.0, mlp: bool | None = None) -> Encoder:
    """A freshly initialised encoder for images of `size` px.

    Args:
        arch: a registered name, or `timm:NAME` for a model of the package timm.
        size: image side in px.
        width: factor on the channel counts.
        mlp: force the MLP after pooling on or off, where the architecture has this switch; None
            leaves it as the architecture has it.

    Raises:
        CossError: unknown architecture, or a width, size or `mlp` it cannot be built with.
    """
    family, _, name = arch.partition(":")
    factory = partial(timm_encoder, name) if family == "timm" else registry.load("encoder", arch)
    options: dict[str, Any] = {"size": size, "width": width}
    if mlp is not None:
        if "mlp" not in inspect.signature(factory).parameters:
            raise CossError(
                f"{arch} has no MLP after pooling to switch on or off; leave out mlp={mlp}"
            )
        options["mlp"] = mlp
    encoder: Encoder = factory(**options)
    return encoder


def find_checkpoint(where: Path) -> Path:
    """The encoder file of a run folder, or the file itself. Raises CossError if there is none."""
    if where.is_dir():
        path = where / FILE_NAME
        if path.is_file():
            return path
        if (where / "last.ckpt").is_file():
            raise CossError(
                f"run {where} has not finished (no {FILE_NAME}); "
                f"finish it with `coss-bench pretrain --resume --out {where}`"
            )
        raise CossError(f"{where} holds no {FILE_NAME}; pass a run folder of `coss-bench pretrain`")
    if not where.exists():
        raise CossError(f"{where} does not exist; pass a run folder or an {FILE_NAME}")
    return where


def load_checkpoint(where: Path) -> Checkpoint:
    """Load an exported encoder from a run folder or file.

    Raises:
        CossError: nothing there; a truncated or foreign file; a pickle (never opened: unpickling
            executes code); weights that do not fit the architecture named in the file.
    """
    path = find_checkpoint(where)
    with explain_os_errors("read", path), path.open("rb") as file:
        head = file.read(8)
    if head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise CossError(
            f"{path} is a pickle or zip archive, which could execute code and is not opened; "
            f"pass the {FILE_NAME} that `coss-bench pretrain` exports"
        )
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            stored = (opened.metadata() or {}).get(HEADER)
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError) as error:
        raise CossError(
            f"{path} is truncated or not a safetensors file ({error}); export or copy it again"
        ) from error
    if stored is None:
        raise CossError(
            f"{path} was not written by this tool; "
            f"pass the {FILE_NAME} of a run of `coss-bench pretrain`"
        )
    try:
        header = json.loads(stored)
        if header["format"] != FORMAT:
            raise CossError(
                f"{path} has format {header['format']!r}, this version reads {FORMAT!r}; "
                "use the version of this package that wrote it"
            )
        metadata = header["metadata"]
        encoder = build_encoder(
            metadata["arch"],
            size=int(metadata["size"]),
            width=float(metadata["width"]),
            mlp=metadata.get("mlp"),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise CossError(f"{path} has damaged metadata ({error!r}); export it again") from error
    try:
        encoder.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CossError(
            f"{path} does not fit {metadata['arch']} at width {metadata['width']}: {reason}; "
            "use the version of this package that wrote it"
        ) from error
    name = path.resolve().parent.name if path.name == FILE_NAME else path.stem
    return Checkpoint(encoder.eval(), name, path, sha256_of(path), metadata)
