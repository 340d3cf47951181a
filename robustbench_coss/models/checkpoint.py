"""Exported encoders: `encoder.safetensors`, weights with what is needed to rebuild and trust them.

safetensors holds arrays and text only: reading one executes nothing.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from robustbench_coss import registry
from robustbench_coss.encoders.base import Encoder
from robustbench_coss.encoders.timm_models import timm_elements, timm_encoder
from robustbench_coss.errors import CossError, kind_and_line
from robustbench_coss.files import canonical_json, sha256_of, write_atomically
from robustbench_coss.models.containers import read_safetensors
from robustbench_coss.models.tensors import check_kinds
from robustbench_coss.reading import open_regular, parse_json

FORMAT = "robustbench-coss encoder 1"
HEADER = "robustbench-coss"
FILE_NAME = "encoder.safetensors"
NOTHING = type(None)
KINDS: dict[str, tuple[type, ...]] = {
    "arch": (str,),
    "method": (str, NOTHING),
    "dataset": (str, NOTHING),
    "encoder": (str, NOTHING),
    "source": (str, NOTHING),
    "mlp": (bool, NOTHING),
    "training": (dict, NOTHING),
    "parameters": (int, NOTHING),
}
"""What a file may state in its metadata."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded encoder and where it came from.

    Attributes:
        encoder: in eval mode, on the CPU.
        name: the run folder's name, else the file's stem.
        path: the file; None for a model that is none.
        sha256: which model it is: of that file, of another tool's with how it was read; else of all
            that the model computes with.
        metadata: arch, width, size, method, encoder ("online" or "teacher"), dataset (what it was
            pretrained on), training (epochs, batch size, seed, …), parameters; for models of other
            tools also source, what they were read from.
        head: the model's own classifier, [B, D] to [B, K] logits; None if a probe is needed.
        classes: K of that head.
        preprocessing: in one line, for people; "" for this tool's own.
        answers: digest of its outputs for a fixed batch, where `sha256` may not tell all.
        recognised: whether what was measured of it in an earlier call is taken as up to date.
    """

    encoder: Encoder
    name: str
    path: Path | None
    sha256: str
    metadata: dict[str, Any]
    head: nn.Module | None = None
    classes: int | None = None
    preprocessing: str = ""
    answers: str = ""
    recognised: bool = True


def foreign_metadata(arch: str, size: int, source: str, **known: Any) -> dict[str, Any]:
    """`Checkpoint.metadata` of a model that this tool has not pretrained.

    Args:
        arch, size, source: as there.
        known: what else is there to say of it.
    """
    found = {"arch": arch, "width": 1.0, "size": size, "method": None, "dataset": None}
    found |= {"encoder": None, "source": source}
    return found | known | {"training": {}}


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
                f"finish it with `coss-bench pretrain --resume --out {quote(str(where))}`"
            )
        raise CossError(f"{where} holds no {FILE_NAME}; pass a run folder of `coss-bench pretrain`")
    if not where.exists():
        raise CossError(
            f"{where} does not exist; pass a run folder or an {FILE_NAME}{_meant(where)}"
        )
    return where


def _meant(where: Path) -> str:
    """What a name that is no file may mean."""
    _, colon, name = str(where).rpartition(":")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not where.suffix[1:].isalpha():
        return f"; if it is a model of the Hub, pass hf:{name}"
    return "; names begin with torchvision:, timm:, hf:, open_clip: or zoo:" if colon else ""


def _check_shapes(
    path: Path,
    metadata: Mapping[str, Any],
    build: Callable[[], Encoder],
    tensors: Mapping[str, Tensor],
) -> None:
    """Raise CossError unless a file's tensors are those of the architecture that it states.

    Before the encoder is built: a few bytes can state one that would take all memory.
    """
    does_not_fit = f"{path} does not fit {metadata['arch']} at width {metadata['width']}: "
    remedy = "; use the version of this package that wrote it"
    family, _, name = metadata["arch"].partition(":")
    if family == "timm":  # tried on an image, for which it has to be built
        wanted = timm_elements(name, int(metadata["size"]))
        held = sum(tensor.numel() for tensor in tensors.values())
        if wanted > held:
            raise CossError(f"{does_not_fit}it has {wanted:,} values, the file {held:,}{remedy}")
        return
    try:
        with torch.device("meta"):  # takes no memory
            stated = build().state_dict()
    except RuntimeError:  # an architecture of another package, which needs values to be built
        return
    for key in sorted(set(stated) | set(tensors)):
        shapes = [list(of[key].shape) if key in of else "none" for of in (stated, tensors)]
        if shapes[0] != shapes[1]:
            raise CossError(
                f"{does_not_fit}{key} would have shape {shapes[0]} and has {shapes[1]}{remedy}"
            )


def load_checkpoint(where: Path) -> Checkpoint:
    """Load an exported encoder from a run folder or file.

    Raises:
        CossError: nothing there; a truncated or foreign file; a pickle (never opened: unpickling
            executes code); weights that do not fit the architecture named in the file.
    """
    path = find_checkpoint(where)
    with open_regular(path) as file:
        head = file.read(8)
    if head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise CossError(
            f"{path} is a pickle or zip archive, which could execute code and is not opened; "
            f"pass the {FILE_NAME} that `coss-bench pretrain` exports"
        )
    header_text, tensors = read_safetensors(path)
    stored = header_text.get(HEADER)
    if stored is None:
        raise CossError(
            f"{path} was not written by this tool; "
            f"pass the {FILE_NAME} of a run of `coss-bench pretrain`"
        )
    try:
        header = parse_json(stored)
        if header["format"] != FORMAT:
            raise CossError(
                f"{path} has format {header['format']!r}, this version reads {FORMAT!r}; "
                "use the version of this package that wrote it"
            )
        metadata = header["metadata"]
        arch, size, width = metadata["arch"], int(metadata["size"]), float(metadata["width"])
        for key, kinds in KINDS.items():
            if not isinstance(metadata.get(key, kinds[0]()), kinds):
                raise ValueError(f"{key} is {str(metadata[key])[:40]}")
        build = partial(build_encoder, arch, size=size, width=width, mlp=metadata.get("mlp"))
        _check_shapes(path, metadata, build, tensors)
        encoder = build()
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        reason = kind_and_line(error)
        raise CossError(f"{path} has damaged metadata ({reason}); export it again") from error
    check_kinds(tensors, encoder.state_dict(), path)
    encoder.load_state_dict(tensors, strict=True)
    name = path.resolve().parent.name if path.name == FILE_NAME else path.stem
    return Checkpoint(encoder.eval(), name, path, sha256_of(path), metadata)
