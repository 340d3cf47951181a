"""The options of `coss-bench pretrain`, as typer reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeName = Annotated[
    str | None, typer.Option(help="Recipe file, or name of a shipped recipe.", metavar="FILE|NAME")
]
MethodName = Annotated[str | None, typer.Option(help="byol, co-byol, …")]
Architecture = Annotated[str | None, typer.Option(help="Encoder architecture.")]
DataSetName = Annotated[str | None, typer.Option(help="Data set to train on.")]
RunFolder = Annotated[
    Path | None,
    typer.Option(help="Run folder; default: runs/METHOD-ARCH-DATASET-sSEED.", metavar="RUN"),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the last checkpoint of the run folder.")
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Show the recipe in full and what the run would take; write nothing."
    ),
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training images.")]
BatchSize = Annotated[int | None, typer.Option(help="Images per optimiser step (global).")]
Width = Annotated[float | None, typer.Option(help="Factor on the encoder's channel counts.")]
ImageSize = Annotated[
    int | None, typer.Option("--image-size", help="Side of the training images in px.")
]
Limit = Annotated[
    int | None, typer.Option(help="Train on so many images only, a fixed random subset.")
]
Seed = Annotated[int | None, typer.Option(help="Seed of weights, order and views.")]
Precision = Annotated[
    str | None,
    typer.Option(
        help="32, bf16 (mixed), or auto: bf16 if the device has it and is faster in it.",
        metavar="32|bf16|auto",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.", metavar="auto|cpu|cuda")]
Compiled = Annotated[
    bool, typer.Option("--compile", help="Compile the encoder with torch.compile, for GPUs.")
]
SkipBadImages = Annotated[
    bool,
    typer.Option(
        "--skip-bad-images",
        help="Read every picture first and leave out those that cannot be read.",
    ),
]
LoggerName = Annotated[
    str,
    typer.Option(
        "--logger",
        help="Where metrics go beside metrics.csv: tensorboard, csv, wandb, mlflow or none.",
        metavar="NAME",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other recipe key, e.g. options.w_s=0.5.", metavar="KEY=VALUE"),
]
