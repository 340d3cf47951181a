"""`coss-bench arch`: what encoders are made of and what they see."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_coss.cli.leaderboard import Force
from robustbench_coss.machine.terminal import say, show

if TYPE_CHECKING:
    from rich.table import Table

    from robustbench_coss.encoders.base import Encoder

NARROW = 1 / 16
"""Width at which the field is measured by gradient: it depends on kernels and strides alone."""


def arch(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...", help="Registered encoders (see `coss-bench list`) or timm:NAME."
        ),
    ],
    size: Annotated[
        int | None,
        typer.Option("--image-size", help="Side in px; default: 224, or 32 for rfN_resnet18."),
    ] = None,
    width: Annotated[float, typer.Option(help="Factor on the channel counts.")] = 1.0,
    mlp: Annotated[
        bool | None,
        typer.Option("--mlp/--no-mlp", help="Force the MLP after pooling on or off."),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="Draw kernels and fields of ResNets, one row each, to this .png file."),
    ] = None,
    force: Force = False,
) -> None:
    """Show parameters, MACs, map size and receptive field of encoders.

    The receptive field is computed from kernels and strides, and measured as the extent of the
    input gradient of one local representation; the two agree for every encoder of this package.

    Examples:

      coss-bench arch rf99_resnet50

      coss-bench arch rf9_resnet18 rf29_resnet18 --width 0.25 --picture fields.png

      coss-bench arch timm:convnext_atto --image-size 96
    """

    from robustbench_coss.datasets.base import LARGEST_IMAGE
    from robustbench_coss.encoders.resnet import ResNet
    from robustbench_coss.errors import CossError
    from robustbench_coss.figures.architectures import draw
    from robustbench_coss.figures.styles import PNG_MARK
    from robustbench_coss.files import write_chosen
    from robustbench_coss.models.checkpoint import build_encoder

    if size is not None and size < 8:
        raise CossError(f"--image-size must be at least 8 px, got {size}")
    if size is not None and size > LARGEST_IMAGE:
        raise CossError(f"--image-size must be at most {LARGEST_IMAGE} px, got {size}")
    if picture is not None and picture.suffix != ".png":
        raise CossError(f"--picture writes PNG; give it a name that ends in .png, not {picture}")
    drawn, shown = {}, []
    for name in names:
        side = size or (32 if re.fullmatch(r"rf\d+_resnet18", name) else 224)
        encoder = build_encoder(name, size=side, width=width, mlp=mlp).eval()
        if isinstance(encoder, ResNet):
            drawn[name] = encoder
        elif picture is not None:
            raise CossError(f"--picture draws ResNets, RF-ResNets and BagNets only; drop {name}")
        shown.append(_described(encoder, name, side, width))
    if picture is not None:
        write_chosen(picture, draw(drawn), force=force, mark=PNG_MARK)
    for table in shown:
        show(table)
    if picture is not None:
        say(f"wrote {picture}")


def _described(encoder: Encoder, name: str, side: int, width: float) -> Table:
    """An encoder in numbers."""
    import torch
    from rich.table import Table
    from rich.text import Text

    from robustbench_coss.encoders.base import multiply_accumulates, parameters
    from robustbench_coss.encoders.receptive_field import field_by_gradient
    from robustbench_coss.models.checkpoint import build_encoder

    with torch.inference_mode():
        local = encoder.local(torch.zeros(1, 3, side, side))
    title = f"{name} at {side} px, width {width:g}"
    table = Table(show_header=False, box=None, title=Text(title, style="table.title"))
    table.add_row("parameters", f"{parameters(encoder) / 1e6:.2f} M")
    table.add_row("MACs per image", f"{multiply_accumulates(encoder) / 1e6:,.0f} M")
    table.add_row("local map", f"{local.shape[2]}×{local.shape[3]} × {local.shape[1]} channels")
    table.add_row("features", str(encoder.dim))
    field = getattr(encoder, "field", None)
    if field is not None:
        narrow = build_encoder(name, size=side, width=NARROW)
        table.add_row("receptive field (formula)", f"{field} px")
        table.add_row("receptive field (gradient)", f"{field_by_gradient(narrow, field)} px")
    return table
