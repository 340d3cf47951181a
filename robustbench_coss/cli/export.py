"""`coss-bench export`: a pretrained encoder for other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_coss.machine.terminal import say


def export(
    run: Annotated[Path, typer.Argument(help="Run folder, or an encoder.safetensors file.")],
    format: Annotated[
        str, typer.Option(help="torchvision, timm, lightly, hf or onnx.", metavar="NAME")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="File or folder to write; default: beside the encoder.", metavar="FILE"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write a pretrained encoder for torchvision, timm, lightly, transformers (hf) or ONNX.

    The file gives the features of the original, and the Python lines that load it are printed.
    Normalisation is part of the encoder here and of the ONNX file, but not of the other libraries'
    models: the printed lines show it. An RF-ResNet becomes an ordinary ResNet with zeros in its
    kernels, except in ONNX.

    Examples:

      coss-bench export runs/co-byol --format torchvision

      coss-bench export runs/co-byol --format onnx --out co-byol.onnx
    """
    from robustbench_coss.models.export import export as write

    done = write(run, format, out, force)
    stated = done.checkpoint.metadata
    role = f"{stated['encoder']} encoder" if "encoder" in stated else "encoder"
    origin = f" of {stated['method']}" if "method" in stated else ""
    what = f"{stated['arch']}, {done.checkpoint.encoder.dim} features"
    say(f"wrote {done.path}: {role}{origin}, {what}")
    if done.note:
        say(f"note: {done.note}")
    say(f"load it with:\n\n{done.lines}")
