"""Encoders written for other libraries: torchvision, timm, lightly, transformers, ONNX.

An export gives the features of the encoder it was made from. It is a copy for use elsewhere:
`coss-bench eval` measures the original only.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor, nn

from robustbench_coss.encoders.base import Encoder, parameters
from robustbench_coss.encoders.resnet import Layout, ResNet
from robustbench_coss.errors import CossError, unknown_name
from robustbench_coss.files import canonical_json, write_atomically
from robustbench_coss.models import export_hf
from robustbench_coss.models.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from robustbench_coss.models.export_resnet import (
    NAMES,
    PLANES,
    changes_to,
    layout_of,
    one_by_one_keys,
    planes_of,
    resnet_state,
)
from robustbench_coss.models.export_source import SOURCE, quoted, source, use
from robustbench_coss.models.hub.fetch import quiet

ONNX_LIMIT = 2**31
"""Bytes that an ONNX file can hold: it is one protocol buffer."""


@dataclass(frozen=True)
class Export:
    """What an export left.

    Attributes:
        path: the file written.
        checkpoint: what was exported.
        lines: Python that loads the file and computes `features` of `images`.
        note: what to know before training the exported encoder further, in one line; or empty.
    """

    path: Path
    checkpoint: Checkpoint
    lines: str
    note: str


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        ending: what replaces `.safetensors` in the checkpoint's name.
        refuses: why the format cannot hold an encoder of a given architecture, or None if it can.
        content: the file's bytes; of a folder, those of its files by name.
        lines: Python that loads the file at a path.
    """

    ending: str
    refuses: Callable[[Encoder, str], str | None]
    content: Callable[[Checkpoint], bytes | dict[str, bytes]]
    lines: Callable[[Checkpoint, Path], str]


def export(run: Path, name: str, out: Path | None = None, force: bool = False) -> Export:
    """Write the encoder of a run in the format of another library.

    Args:
        run: run folder or encoder file.
        name: one of `FORMATS`.
        out: the file (of `hf`, the folder) to write; None puts it beside the encoder file.
        force: replace `out` if it exists; of a folder, the files that are written.

    Raises:
        CossError: unknown format, no finished encoder, an encoder that the format cannot hold, an
            `out` that is there already, or a package that is missing.
    """
    if name not in FORMATS:
        raise unknown_name("format", name, FORMATS, more="")
    origin = find_checkpoint(run)
    checkpoint = load_checkpoint(origin)
    encoder, arch = checkpoint.encoder, str(checkpoint.metadata["arch"])
    form = FORMATS[name]
    reason = form.refuses(encoder, arch)
    if reason is not None:
        others = [n for n, f in FORMATS.items() if f.refuses(encoder, arch) is None]
        remedy = f"; use --format {' or '.join(others)}" if others else ""
        raise CossError(f"--format {name} cannot hold {origin}: {reason}{remedy}")
    path = out or origin.with_name(origin.stem + form.ending)
    _write(path, form.content(checkpoint), origin, force)
    note = ""
    if name != "onnx" and isinstance(encoder, ResNet) and one_by_one_keys(encoder):
        note = (
            "1×1 convolutions are stored as 3×3 ones that are zero around the centre; "
            f"training them further widens the receptive field of {encoder.field} px"
        )
    return Export(path, checkpoint, form.lines(checkpoint, path), note)


def _write(path: Path, content: bytes | dict[str, bytes], origin: Path, force: bool) -> None:
    """Write a file, or the files of a folder, the last of which makes it one that is complete."""
    if isinstance(content, dict):
        if path.exists() and not path.is_dir():
            raise CossError(f"{path} is a file; pass a folder as --out")
        there = [name for name in content if (path / name).exists()]
        if there and not force:
            raise CossError(
                f"{path} has a {there[0]}; pass --force to replace it, or another --out"
            )
        for name, data in content.items():
            write_atomically(path / name, data)
        return
    if path.is_dir():
        raise CossError(f"{path} is a folder; pass a file as --out")
    if path.exists() and path.samefile(origin):
        raise CossError(f"{path} is the encoder to be exported; pass another --out")
    if path.exists() and not force:
        raise CossError(f"{path} exists; pass --force to replace it, or another --out")
    write_atomically(path, content)


# ---- torchvision and lightly ----


def _torchvision_refuses(encoder: Encoder, arch: str) -> str | None:
    if layout_of(encoder) is None:
        return f"it takes ResNet-18 and ResNet-50, not {arch}"
    if planes_of(cast(ResNet, encoder)) != PLANES:
        return "torchvision's ResNets, which lightly takes too, have width 1 only"
    return None


def _torchvision_lines(load: str, checkpoint: Checkpoint, path: Path) -> str:
    """Lines for a file of torch, `load` being what makes its content the weights of `model`."""
    encoder = cast(ResNet, checkpoint.encoder)
    name = NAMES[cast(Layout, layout_of(encoder))]
    lines = [
        "import torch",
        "from torch import nn",
        f"from torchvision.models import {name}",
        "from torchvision.transforms import Normalize",
        "",
        f"model = {name}()",
        *changes_to(encoder),
        f"checkpoint = torch.load({quoted(path)}, weights_only=True)",
        load,
        *use(checkpoint),
    ]
    return "\n".join(lines)


def _saved(content: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _torchvision_content(checkpoint: Checkpoint) -> bytes:
    state = resnet_state(cast(ResNet, checkpoint.encoder))
    return _saved({"model": state, SOURCE: source(checkpoint)})


_plain_lines = partial(_torchvision_lines, 'model.load_state_dict(checkpoint["model"])')


def _lightly_content(checkpoint: Checkpoint) -> bytes:
    state = resnet_state(cast(ResNet, checkpoint.encoder))
    prefixed = {f"backbone.{key}": value for key, value in state.items()}
    return _saved({"state_dict": prefixed, SOURCE: source(checkpoint)})


_lightly_lines = partial(
    _torchvision_lines,
    'nn.ModuleDict({"backbone": model}).load_state_dict(checkpoint["state_dict"])',
)


# ---- timm ----


TIMM = "timm:"
"""How the names of timm's own models begin here."""


def _timm_refuses(encoder: Encoder, arch: str) -> str | None:
    if arch.startswith(TIMM) or layout_of(encoder) is not None:
        return None
    return f"it takes ResNet-18, ResNet-50 and timm's own models, not {arch}"


def _timm_content(checkpoint: Checkpoint) -> bytes:
    if isinstance(checkpoint.encoder, ResNet):
        state = resnet_state(checkpoint.encoder)
    else:
        model = cast(nn.Module, checkpoint.encoder.model)
        state = {key: value.contiguous() for key, value in model.state_dict().items()}
    # One key: safetensors writes several in no fixed order; equal encoders should be equal files.
    header = {SOURCE: canonical_json(source(checkpoint))}
    return bytes(safetensors.torch.save(state, metadata=header))


def _timm_lines(checkpoint: Checkpoint, path: Path) -> str:
    encoder = checkpoint.encoder
    if isinstance(encoder, ResNet):
        name, changes = NAMES[cast(Layout, layout_of(encoder))], changes_to(encoder)
        planes = planes_of(encoder)
        options = "" if planes == PLANES else f", channels={planes}"
    else:
        name, changes = checkpoint.metadata["arch"].removeprefix(TIMM), []
        options = _image_size(name, encoder.input.size)
    lines = [
        "import timm",
        "import torch",
        "from safetensors.torch import load_file",
        *(["from torch import nn"] if changes else []),
        "from torchvision.transforms import Normalize",
        "",
        f'model = timm.create_model("{name}", num_classes=0{options})',
        *changes,
        f"model.load_state_dict(load_file({quoted(path)}))",
        *use(checkpoint),
    ]
    return "\n".join(lines)


def _image_size(name: str, size: int) -> str:
    """The image size as an option of `timm.create_model`, for models that are made for one."""
    import timm

    try:
        timm.create_model(name, num_classes=0, img_size=size)
    except TypeError:  # timm has no list of the models that take it
        return ""
    return f", img_size={size}"


# ---- ONNX ----


class _Both(nn.Module):
    """Global and local representations of one pass."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        local = self.encoder.local(images)
        return self.encoder.pool(local), local


def _onnx_refuses(encoder: Encoder, arch: str) -> str | None:
    if 4 * parameters(encoder) >= ONNX_LIMIT:
        return f"an ONNX file holds less than 2 GiB, too little for the weights of {arch}"
    return None


def _onnx_content(checkpoint: Checkpoint) -> bytes:
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript")):
        raise CossError(
            "--format onnx needs the packages onnx and onnxscript; "
            "pip install 'robustbench-coss[onnx]'"
        )
    import onnx

    size = checkpoint.encoder.input.size
    try:
        # The exporter's progress and advice stay out of the terminal.
        with (
            quiet(logging.WARNING),
            warnings.catch_warnings(action="ignore"),
            redirect_stdout(io.StringIO()),
        ):
            program = torch.onnx.export(
                _Both(checkpoint.encoder).eval(),
                (torch.zeros(2, 3, size, size),),  # 2: a batch of one would be taken for a constant
                dynamo=True,
                input_names=["images"],
                output_names=["features", "local"],
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise CossError(
            f"PyTorch cannot express {checkpoint.metadata['arch']} in ONNX "
            f"({type(error).__name__}); write its local() and pool() without branches on values"
        ) from error
    assert program is not None  # it is None only for the exporter that dynamo=True replaces
    model = program.model_proto
    stated = source(checkpoint).items()
    onnx.helper.set_model_props(
        model, {key: v if isinstance(v, str) else json.dumps(v) for key, v in stated}
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _onnx_lines(checkpoint: Checkpoint, path: Path) -> str:
    encoder = checkpoint.encoder
    size = encoder.input.size
    lines = [
        "import onnxruntime",
        "",
        f"session = onnxruntime.InferenceSession({quoted(path)})",
        f"# images: RGB in [0, 1], [B, 3, {size}, {size}]; features: [B, {encoder.dim}]",
        'features, local = session.run(None, {"images": images.numpy()})',
    ]
    return "\n".join(lines)


FORMATS = {
    "torchvision": Format(
        "-torchvision.pth", _torchvision_refuses, _torchvision_content, _plain_lines
    ),
    "timm": Format("-timm.safetensors", _timm_refuses, _timm_content, _timm_lines),
    "lightly": Format("-lightly.ckpt", _torchvision_refuses, _lightly_content, _lightly_lines),
    "hf": Format("-hf", export_hf.refuses, export_hf.content, export_hf.lines),
    "onnx": Format(".onnx", _onnx_refuses, _onnx_content, _onnx_lines),
}
