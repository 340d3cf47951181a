"""`coss-bench pretrain`: train an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustbench_coss.cli.settings import parse_setting
from robustbench_coss.errors import CossError

if TYPE_CHECKING:
    from robustbench_coss.pretrain.recipe import Recipe


def _resolve(
    name: str | None, options: dict[str, Any], settings: list[str], out: Path | None, resume: bool
) -> tuple[Recipe, Path]:
    """The recipe and the run folder that the command line asks for."""
    import yaml

    from robustbench_coss.pretrain.recipe import (
        build_recipe,
        dump_recipe,
        merge,
        nested,
        read_recipe,
    )
    from robustbench_coss.pretrain.run_folder import run_recipe

    changes: dict[str, Any] = {key: v for key, v in options.items() if v is not None}
    for text in settings:
        changes = merge(changes, nested(*parse_setting(text, "optimizer.lr=0.2")))
    if resume and out is None:
        raise CossError("--resume needs --out RUN, the run folder to go on with")
    if resume and out is not None and name is None:
        base = yaml.safe_load(dump_recipe(run_recipe(out)))
    else:
        base = read_recipe(name) if name else {}
    recipe = build_recipe(merge(base, changes), name or "options")
    named = "-".join([recipe.method, recipe.arch, recipe.dataset, f"s{recipe.seed}"])
    return recipe, out or Path("runs") / named


def _show_plan(recipe: Recipe, device: str, data_root: Path) -> None:
    """Print a recipe in full, then its plan as comments: together a recipe file again."""
    from robustbench_coss.pretrain.dry_run import describe, make_plan
    from robustbench_coss.pretrain.recipe import dump_recipe

    plan = make_plan(recipe, device=device, data_root=data_root)
    typer.echo(dump_recipe(recipe), nl=False)
    for line in describe(plan):
        typer.echo(f"# {line}")


def pretrain(
    recipe: Annotated[
        str | None,
        typer.Option(help="Recipe file, or name of a shipped recipe.", metavar="FILE|NAME"),
    ] = None,
    method: Annotated[str | None, typer.Option(help="byol, co-byol, …")] = None,
    arch: Annotated[str | None, typer.Option(help="Encoder architecture.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set to train on.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder; default: runs/METHOD-ARCH-DATASET-sSEED.", metavar="RUN"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of the run folder.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show the recipe in full and what the run would take; write nothing."
        ),
    ] = False,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images per optimiser step (global).")
    ] = None,
    width: Annotated[
        float | None, typer.Option(help="Factor on the encoder's channel counts.")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--image-size", help="Side of the training images in px.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Train on so many images only, a fixed random subset.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and views.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="32 or bf16 (mixed).", metavar="32|bf16")
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu or cuda.", metavar="auto|cpu|cuda")
    ] = "auto",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the encoder with torch.compile, for GPUs.")
    ] = False,
    skip_bad_images: Annotated[
        bool,
        typer.Option(
            "--skip-bad-images",
            help="Read every picture first and leave out those that cannot be read.",
        ),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Any other recipe key, e.g. options.w_s=0.5.", metavar="KEY=VALUE"
        ),
    ] = None,
    data_root: Annotated[Path, typer.Option(help="Folder of the data sets.")] = Path("data"),
    download: Annotated[
        bool, typer.Option("--download", help="Fetch a missing data set if it can be fetched.")
    ] = False,
) -> None:
    """Pretrain an encoder with a self-supervised method.

    Options override the recipe. The run folder holds the recipe, metrics.csv, TensorBoard logs,
    last.ckpt (written after every epoch; `--resume` goes on from it, to the same weights as an
    undisturbed run) and, at the end, encoder.safetensors, which `coss-bench eval` measures.

    Examples:

      coss-bench pretrain --method co-byol --dataset parts --epochs 20

      coss-bench pretrain --recipe quickstart --method byol --out runs/byol-1

      coss-bench pretrain --resume --out runs/byol-1

      coss-bench pretrain --recipe co-byol/imagenet1k-rf99-resnet50 --dry-run

      torchrun --nproc-per-node 2 -m robustbench_coss pretrain --method byol
    """
    from robustbench_coss.machine.environment import resolve_device
    from robustbench_coss.pretrain.distributed import (
        ReportedElsewhere,
        join,
        rank,
        same_outcome,
        world_size,
    )
    from robustbench_coss.pretrain.train import pretrain as train

    options = {
        "method": method,
        "arch": arch,
        "dataset": dataset,
        "epochs": epochs,
        "batch_size": batch_size,
        "width": width,
        "size": size,
        "limit": limit,
        "seed": seed,
        "precision": precision,
    }
    try:
        join(resolve_device(device))
        with same_outcome():
            resolved, run = _resolve(recipe, options, settings or [], out, resume)
        if dry_run:
            _show_plan(resolved, device, data_root)
            return
        try:
            exported = train(
                resolved,
                run,
                device=device,
                resume=resume,
                data_root=data_root,
                download=download,
                compiled=compiled,
                skip_bad_images=skip_bad_images,
            )
        except KeyboardInterrupt:
            if rank() == 0:
                again = "coss-bench pretrain" if world_size() == 1 else "the same command and"
                typer.echo(f"interrupted; go on with: {again} --resume --out {run}", err=True)
            raise typer.Exit(130) from None
    except ReportedElsewhere:
        raise typer.Exit(1) from None
    if rank() == 0:
        typer.echo(f"encoder: {exported}")
        typer.echo(f"next: coss-bench eval {run} --suite all")
