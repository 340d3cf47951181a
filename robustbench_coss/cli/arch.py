"""`coss-bench arch`: what an encoder is made of and what it sees."""

from __future__ import annotations

from typing import Annotated

import typer

NARROW = 1 / 16
"""Width at which the field is measured by gradient: it depends on kernels and strides alone."""


def arch(
    name: Annotated[str, typer.Argument(help="A registered encoder (see `coss-bench list`).")],
    size: Annotated[
        int | None,
        typer.Option("--image-size", help="Image side in px; default: 224, or 32 for rf29."),
    ] = None,
    width: Annotated[float, typer.Option(help="Factor on the channel counts.")] = 1.0,
) -> None:
    """Show parameters, MACs, map size and receptive field of an encoder.

    The receptive field is computed from kernels and strides, and measured as the extent of the
    input gradient of one local representation; the two agree for every encoder of this package.

    Examples:

      coss-bench arch rf99_resnet50

      coss-bench arch resnet18 --image-size 32 --width 0.25
    """
    import torch
    from rich.console import Console
    from rich.table import Table

    from robustbench_coss.checkpoints import build_encoder
    from robustbench_coss.encoders.base import parameters
    from robustbench_coss.encoders.receptive_field import field_by_gradient
    from robustbench_coss.encoders.resnet import multiply_accumulates
    from robustbench_coss.errors import CossError

    if size is None:
        size = 32 if name.startswith("rf29") else 224
    if size < 8:
        raise CossError(f"--image-size must be at least 8 px, got {size}")
    encoder = build_encoder(name, size=size, width=width).eval()
    with torch.inference_mode():
        local = encoder.local(torch.zeros(1, 3, size, size))
    table = Table(show_header=False, box=None, title=f"{name} at {size} px, width {width:g}")
    table.add_row("parameters", f"{parameters(encoder) / 1e6:.2f} M")
    table.add_row("MACs per image", f"{multiply_accumulates(encoder) / 1e6:,.0f} M")
    table.add_row("local map", f"{local.shape[2]}×{local.shape[3]} × {local.shape[1]} channels")
    table.add_row("features", str(encoder.dim))
    field = getattr(encoder, "field", None)
    if field is not None:
        narrow = build_encoder(name, size=size, width=NARROW)
        table.add_row("receptive field (formula)", f"{field} px")
        table.add_row("receptive field (gradient)", f"{field_by_gradient(narrow, field)} px")
    Console().print(table)
