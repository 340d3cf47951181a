"""Models from anywhere: runs, controls, torchvision and timm, other tools' files, any module."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Unpack

import safetensors
import torch

from robustbench_coss.encoders.base import Encoder
from robustbench_coss.encoders.timm_seams import ClassTokenViT
from robustbench_coss.errors import CossError
from robustbench_coss.files import sha256_of
from robustbench_coss.models.checkpoint import (
    HEADER,
    Checkpoint,
    find_checkpoint,
    foreign_metadata,
    load_checkpoint,
)
from robustbench_coss.models.controls import FAMILY, control
from robustbench_coss.models.hub.folders import is_hub_folder, model_in_folder
from robustbench_coss.models.hub.libraries import HUB, open_clip_model, timm_from_hub
from robustbench_coss.models.hub.read import transformers_model
from robustbench_coss.models.libraries import library_model
from robustbench_coss.models.other_tools.asked import Asked, Options, asked
from robustbench_coss.models.other_tools.build import built
from robustbench_coss.models.other_tools.find import some_of
from robustbench_coss.models.other_tools.foreign import Foreign
from robustbench_coss.models.other_tools.format import Colour
from robustbench_coss.models.other_tools.formats import FORMATS
from robustbench_coss.models.other_tools.heads import Head, read_head
from robustbench_coss.models.other_tools.opening import check_kind
from robustbench_coss.models.other_tools.read import read_foreign
from robustbench_coss.models.seams import Cut
from robustbench_coss.models.wrap import describe_input, wrap_module
from robustbench_coss.reading import check_regular, from_home
from robustbench_coss.zoo.download import downloading
from robustbench_coss.zoo.download import file_of as published_file
from robustbench_coss.zoo.entries import FAMILY as ZOO
from robustbench_coss.zoo.entries import entry_of

__all__ = ["FORMATS", "load_model", "wrap_module"]

LIBRARIES = ("torchvision", "timm", "hf", "open_clip", ZOO)

OF_TRANSFORMERS = ("--pooling", "--mean", "--std")
"""Options that models of transformers take too."""

WHOLE = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")
"""Files of weights as `save_pretrained` calls them."""

SHOWN_PARTS = 5
"""Of a path at most: `run/lightning_logs/version_0/checkpoints/last.ckpt`."""


def load_model(
    where: str | Path,
    *,
    size: int | None = None,
    dataset: str | None = None,
    name: str | None = None,
    **options: Unpack[Options],
) -> Checkpoint:
    """A model that can be measured, with its own classifier if it has one.

    Args:
        where: run folder or `encoder.safetensors` of this tool, `torchvision:NAME[:WEIGHTS]`,
            `timm:NAME[:WEIGHTS]`, `timm:hf-hub:ORG/NAME[@REVISION]`, `hf:ORG/NAME[@REVISION]`,
            `open_clip:NAME:TAG` or `:FILE`, a folder of transformers, timm or open_clip,
            `control:pixels`, `control:untrained:ARCH[:WIDTH][:SEED][:no-mlp]`, or a checkpoint file
            of another tool, or `zoo:NAME`.
        size: image side in px; None takes what the model was made for, or the data set's default.
        dataset: what will be measured on, which a control has its size from.
        name: in records and tables; None takes that of the run folder, file or network.
        options: what a file of another tool does not say itself, as in `Asked`.

    Raises:
        CossError: nothing there, nothing that can be recognised or that fits, or something that
            could execute code and is therefore not opened.
    """
    if name is not None and not name.strip():
        raise CossError("the name of a model is empty")
    found = _load(where, asked(options), size, dataset)
    return found if name is None else replace(found, name=name)


def _load(where: str | Path, asked: Asked, size: int | None, dataset: str | None) -> Checkpoint:
    if size is not None and size < 1:
        raise CossError(f"the image size must be at least 1 px, got {size}")
    library, given = str(where).partition(":")[0], asked.given()
    if library == ZOO and not Path(where).exists():
        return _published(str(where), asked, size)
    if library == "hf" or is_hub_folder(Path(where)):
        if left := [option for option in given if option not in OF_TRANSFORMERS]:
            raise CossError(f"{where} states itself what it is; leave out {', '.join(left)}")
        read = transformers_model if library == "hf" else model_in_folder
        colours = None if asked.mean is None or asked.std is None else (asked.mean, asked.std)
        return read(str(where), size, asked.pooling, colours)
    if library in (*LIBRARIES, FAMILY) and not Path(where).exists():
        if given:
            raise CossError(
                f"{where} is no file and says itself what it is; leave out {', '.join(given)}"
            )
        if library == FAMILY:
            return control(str(where), size=size, dataset=dataset)
        return _named(str(where), library, size)
    check_kind(Path(where))
    beside = Path(where).parent
    if not given and Path(where).name in WHOLE and is_hub_folder(beside):
        raise CossError(
            f"{where} lies beside a configuration that says how it is read; pass the folder "
            f"{beside}, or --format torchvision to read the file by itself"
        )
    path = find_checkpoint(Path(where))
    if path.name == "last.ckpt" and (path.parent / "recipe.yaml").is_file():
        raise CossError(
            f"{path} is what training resumes from; pass the run folder {path.parent} instead"
        )
    if asked.format != "auto" or not _is_own(path):
        return _foreign(path, asked, size)
    checkpoint = load_checkpoint(path)
    made_for, arch = checkpoint.metadata["size"], checkpoint.metadata["arch"]
    if asked.arch not in (None, arch):
        raise CossError(f"{checkpoint.name} is of {arch}, not {asked.arch}; leave out --arch")
    if others := [option for option in given if option not in ("--arch", "--allow-partial")]:
        raise CossError(f"{checkpoint.name} says itself what it is; leave out {', '.join(others)}")
    if size is not None and size != made_for:
        raise CossError(
            f"{checkpoint.name} was pretrained at {made_for} px, not {size}; leave out the size"
        )
    return checkpoint


def _named(spec: str, library: str, size: int | None) -> Checkpoint:
    hub = f"timm:{HUB}:"
    if spec.startswith(hub):
        return timm_from_hub(spec.removeprefix(hub), size)
    return open_clip_model(spec, size) if library == "open_clip" else library_model(spec, size)


def _published(spec: str, asked: Asked, size: int | None) -> Checkpoint:
    entry = entry_of(spec)
    with downloading(entry.name) as report:
        path = published_file(entry, report)
    found = _load(path, asked, size, None)
    method = found.metadata["method"] or entry.method
    return replace(found, name=entry.name, metadata=found.metadata | {"method": method})


def _is_own(path: Path) -> bool:
    """Whether a file was exported by this tool; files of no kind are left to the other reader."""
    if check_regular(path) == 0 and path.suffix == ".safetensors":
        return True  # whose reader says what is wrong with it
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            return HEADER in (opened.metadata() or {})
    except Exception:  # the library has many kinds
        return path.suffix == ".safetensors"


def _foreign(path: Path, asked: Asked, size: int | None) -> Checkpoint:
    file = read_foreign(path, asked)
    side = size or file.size
    parts, left = built(path, file, side, asked.allow_partial)
    head, notes = parts.head, file.notes
    if asked.head is not None or file.probe:
        token = parts.encoder.dim // (2 if file.pooling == "both" else 1)
        joined = read_head(asked.head or path, file, token, asked.pooling)
        head, parts = joined.layer, replace(parts, classes=joined.classes)
        file, parts = _read_for(joined, path, file, parts)
        whose = asked.head.name if asked.head else "the file itself"
        notes = (*notes, f"with the classifier of {whose}{joined.reads(file.format)}")
    if parts.encoder.input.mean != file.mean or parts.encoder.input.std != file.std:
        _set_colours(parts.encoder, file.mean, file.std)
    reading = file.reading() | ({} if asked.head is None else {"head": asked.head.name})
    file_sha256 = sha256_of(path)
    told = {"file": file_sha256, "reading": reading, "size": side, "left": left}
    told |= {} if asked.head is None else {"head": sha256_of(asked.head)}
    return Checkpoint(
        parts.encoder,
        path.stem,
        path,
        sha256_of(told),
        foreign_metadata(
            file.arch,
            side,
            f"{file.format} checkpoint",
            method=file.method,
            encoder=file.encoder or None,
            file=_end_of(path),
            file_sha256=file_sha256,
            reading=reading | ({"allow_partial": True} if left else {}),
        ),
        head,
        parts.classes,
        describe_input(parts.encoder.input, f"the defaults of {file.format}")
        + _said_of(file, notes, left),
    )


def _read_for(head: Head, path: Path, file: Foreign, parts: Cut) -> tuple[Foreign, Cut]:
    """A ViT that gives the tokens that a classifier reads.

    Raises:
        CossError: it has not as many blocks, or is none that can be cut at one.
    """
    if head.blocks == 1 and head.both == (file.pooling == "both"):
        return file, parts
    vit = parts.encoder
    if not isinstance(vit, ClassTokenViT) or head.blocks >= len(vit.model.blocks):
        raise CossError(
            f"its classifier reads the class tokens of {head.blocks} blocks, which {path} has not"
        )
    made = ClassTokenViT(vit.model, vit.input, head.both, head.blocks).eval()
    file = replace(file, pooling="both" if head.both else "class", token_by="")
    return file, replace(parts, encoder=made)


def _said_of(file: Foreign, notes: tuple[str, ...], left: list[str]) -> str:
    """What was read, and what of it nothing told, for people."""
    said = [file.arch]
    if file.encoder:
        other = " (--weights raw for the one that was trained)"
        said.append(f"its {file.encoder} network{other if file.encoder == 'average' else ''}")
    if file.embedding or file.after:
        said.append("its embedding of an image")
    elif file.pooling is not None:
        by = f" (by {file.token_by}; --pooling for others)" if file.token_by else ""
        said.append(TOKENS[file.pooling] + by)
    said += notes
    if left:
        said.append(f"loaded in part, {some_of(left)}")
    if file.assumed:
        said.append(f"assumed, as nothing in the file tells: {', '.join(file.assumed)}")
    return "; " + "; ".join(said)


TOKENS = {
    "class": "its class token",
    "mean": "the mean of its patch tokens",
    "both": "its class token and the mean of its patch tokens",
    "attention": "its pooling by attention",
}
"""What is the feature of a ViT, in words."""


def _end_of(path: Path) -> str:
    """What tells a file from others of its name, and as little as may be of where it lies."""
    path, home = path.resolve(), from_home("~")
    path = path.relative_to(home) if path.is_relative_to(home) else path.relative_to(path.anchor)
    return "/".join(path.parts[-SHOWN_PARTS:])


def _set_colours(encoder: Encoder, mean: Colour, std: Colour) -> None:
    """Normalise by what the weights were trained with, not by what the architecture states."""
    encoder.input = replace(encoder.input, mean=mean, std=std)
    for buffer, values in ((encoder.mean, mean), (encoder.std, std)):
        buffer.copy_(torch.tensor(values).view(1, 3, 1, 1))
