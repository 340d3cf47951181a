"""The arguments and options of `coss-bench eval`, as typer reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CLASSIFIER, MODEL = "Linear probe", "Models of other tools"
CORRUPTION, CLUSTER = "Corruptions", "Cluster"

Models = Annotated[
    list[str],
    typer.Argument(
        help="Run folders, encoder.safetensors files, checkpoints of other tools, "
        "torchvision:NAME[:WEIGHTS], timm:NAME[:WEIGHTS], hf:ORG/NAME, open_clip:NAME:WEIGHTS, "
        "zoo:NAME, folders of transformers, timm or open_clip, or the controls control:pixels and "
        "control:untrained:ARCH[:WIDTH][:SEED][:no-mlp].",
    ),
]
Suites = Annotated[
    list[str] | None,
    typer.Option(
        help="Suites: repeat, or separate by commas; default: all, but for shift and ood "
        "(--set ood.near=NAMES), which need other data."
    ),
]
ResultsFolder = Annotated[
    Path, typer.Option(help="Folder for records and probes.", metavar="FOLDER")
]
Limit = Annotated[
    int | None,
    typer.Option(help="Measure so many test images, a fixed random subset; default: all."),
]
ImageList = Annotated[
    Path | None,
    typer.Option(help="Measure the test images that a file names, one a line.", metavar="FILE"),
]
DataSetName = Annotated[
    str | None,
    typer.Option(help="Data set to measure on; default: the one trained on."),
]
Transfer = Annotated[
    bool, typer.Option("--transfer", help="Allow a data set other than the pretraining one.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="An option of a suite, e.g. adversarial.attacks=[pgd-linf,square].",
        metavar="SUITE.KEY=VALUE",
    ),
]
BatchSize = Annotated[int, typer.Option(help="Images measured at once.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Precision = Annotated[
    str,
    typer.Option(
        help="What the model multiplies in: 32, tf32, bf16 (which may move shares by more than 0.3 "
        "points), fp16, or auto: fp16 where it is faster."
    ),
]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the model (torch.compile).")]
Workers = Annotated[
    int | None, typer.Option(help="Threads that decode pictures; default: one per core.")
]
SkipBadImages = Annotated[
    bool,
    typer.Option(
        "--skip-bad-images", help="Leave out pictures that cannot be read, marked in the record."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the suites' draws.")]
DataRoot = Annotated[Path, typer.Option(help="Folder of the data sets.")]
Download = Annotated[
    bool, typer.Option("--download", help="Fetch a missing data set if it can be fetched.")
]
Force = Annotated[bool, typer.Option("--force", help="Measure again what is up to date.")]
ProbeKind = Annotated[
    str,
    typer.Option(help="Kind of linear probe: logistic, sgd or simclr.", rich_help_panel=CLASSIFIER),
]
ProbeTrain = Annotated[
    int | None,
    typer.Option(
        help="Train the probe on so many images, a random subset; default: all.",
        rich_help_panel=CLASSIFIER,
    ),
]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        help="Which tool wrote a checkpoint; auto recognises it by its keys.",
        rich_help_panel=MODEL,
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(help="Architecture of a checkpoint that does not say it.", rich_help_panel=MODEL),
]
Size = Annotated[
    int | None,
    typer.Option(
        help="Image size in px; default: what the model was made for.", rich_help_panel=MODEL
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Which weights of a checkpoint: ema, raw, or KEY:PREFIX, where they lie in it.",
        metavar="ema|raw|KEY:PREFIX",
        rich_help_panel=MODEL,
    ),
]
Stem = Annotated[
    str | None,
    typer.Option(
        help="Stem of a ResNet, or a part of it: stride=1,padding=1,pool=none.",
        metavar="TEXT",
        rich_help_panel=MODEL,
    ),
]
Heads = Annotated[int | None, typer.Option(help="Attention heads of a ViT.", rich_help_panel=MODEL)]
Pooling = Annotated[
    str | None,
    typer.Option(
        help="Which tokens of a ViT are its feature: class, mean or both.",
        metavar="class|mean|both",
        rich_help_panel=MODEL,
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        help="Mean of pixels in [0, 1] that a checkpoint was trained with; with --std.",
        metavar="R,G,B",
        rich_help_panel=MODEL,
    ),
]
Std = Annotated[
    str | None,
    typer.Option(help="Their standard deviation.", metavar="R,G,B", rich_help_panel=MODEL),
]
Head = Annotated[
    Path | None,
    typer.Option(
        help="File of a linear classifier on the features of a checkpoint.", rich_help_panel=MODEL
    ),
]
AllowPartial = Annotated[
    bool,
    typer.Option(
        "--allow-partial",
        help="Leave out tensors of a checkpoint that its architecture has no place for.",
        rich_help_panel=MODEL,
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        help="What to call the model in records and tables; default: its folder or file.",
        rich_help_panel=MODEL,
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        help="What corrupts images: fast (torch, on --device), reference (imagecorruptions, "
        "on the CPU) or auto, which is fast.",
        rich_help_panel=CORRUPTION,
    ),
]
Constants = Annotated[
    str | None,
    typer.Option(
        help="Strength of corruptions: imagenet-c, imagenet-c-script or cifar-c; default: cifar-c "
        "up to 64 px, else imagenet-c.",
        rich_help_panel=CORRUPTION,
    ),
]
CorruptionRoot = Annotated[
    Path | None,
    typer.Option(
        help="Ready-made corrupted images: a folder of ImageNet-C, Tiny-ImageNet-C or CIFAR-10-C.",
        metavar="FOLDER",
        rich_help_panel=CORRUPTION,
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        help="Measure on a Ray cluster: HOST:PORT, or auto for the one on this machine.",
        metavar="ADDRESS",
        rich_help_panel=CLUSTER,
    ),
]
GpusPerTask = Annotated[
    float | None,
    typer.Option(
        help="Share of a GPU that a task of --cluster takes; default: a whole one.",
        rich_help_panel=CLUSTER,
    ),
]
