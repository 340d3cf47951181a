"""`coss-bench pretrain`: train an encoder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from robustbench_coss.cli import pretrain_options as options
from robustbench_coss.cli.eval_options import DataRoot, Download
from robustbench_coss.cli.settings import parse_setting
from robustbench_coss.errors import CossError
from robustbench_coss.machine.terminal import say

if TYPE_CHECKING:
    from robustbench_coss.pretrain.recipe import Recipe


def _resolve(
    name: str | None, given: dict[str, Any], settings: list[str], out: Path | None, resume: bool
) -> tuple[Recipe, Path]:
    """The recipe and the run folder that the command line asks for."""

    from robustbench_coss.pretrain.recipe import (
        build_recipe,
        merge,
        nested,
        read_recipe,
    )
    from robustbench_coss.pretrain.run_folder import run_recipe

    changes: dict[str, Any] = {key: v for key, v in given.items() if v is not None}
    for text in settings:
        changes = merge(changes, nested(*parse_setting(text, "optimizer.lr=0.2")))
    if resume and out is None:
        raise CossError("--resume needs --out RUN, the run folder to go on with")
    if resume and out is not None and name is None:
        base = run_recipe(out).model_dump(mode="json")
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
    say(dump_recipe(recipe), nl=False)
    for line in describe(plan):
        say(f"# {line}")


def pretrain(
    recipe: options.RecipeName = None,
    method: options.MethodName = None,
    arch: options.Architecture = None,
    dataset: options.DataSetName = None,
    out: options.RunFolder = None,
    resume: options.Resume = False,
    dry_run: options.DryRun = False,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    width: options.Width = None,
    size: options.ImageSize = None,
    limit: options.Limit = None,
    seed: options.Seed = None,
    precision: options.Precision = None,
    device: options.Device = "auto",
    compiled: options.Compiled = False,
    skip_bad_images: options.SkipBadImages = False,
    logger: options.LoggerName = "tensorboard",
    settings: options.Settings = None,
    data_root: DataRoot = Path("data"),
    download: Download = False,
) -> None:
    """Pretrain an encoder with a self-supervised method.

    Options override the recipe. The run folder holds the recipe, metrics.csv, TensorBoard logs,
    last.ckpt (written after every epoch; `--resume` goes on from it, to the same weights as an
    undisturbed run) and, at the end, encoder.safetensors, which `coss-bench eval` measures.

    Examples:

      coss-bench pretrain --method co-byol --dataset parts --epochs 20

      coss-bench pretrain --recipe quickstart --method simclr --out runs/simclr-1

      coss-bench pretrain --resume --out runs/byol-1

      coss-bench pretrain --recipe co-byol/imagenet1k-rf99-resnet50 --dry-run

      torchrun --nproc-per-node 2 -m robustbench_coss pretrain --method byol
    """
    from robustbench_coss.machine.environment import resolve_device
    from robustbench_coss.pretrain.distributed import ReportedElsewhere, join, same_outcome

    given = {
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
            resolved, run = _resolve(recipe, given, settings or [], out, resume)
        if dry_run:
            _show_plan(resolved, device, data_root)
        else:
            how: dict[str, Any] = {"compiled": compiled, "download": download, "logger": logger}
            how["skip_bad_images"] = skip_bad_images
            _train(resolved, run, device=device, resume=resume, data_root=data_root, **how)
    except ReportedElsewhere:
        raise typer.Exit(1) from None


def _train(recipe: Recipe, run: Path, **how: Any) -> None:
    """Train with `pretrain.train.pretrain`'s options, and say what to do next."""
    from robustbench_coss.pretrain.distributed import rank, world_size
    from robustbench_coss.pretrain.train import pretrain as train

    try:
        exported = train(recipe, run, **how)
    except KeyboardInterrupt:
        if rank() == 0:
            quoted = shlex.quote(str(run))
            again = "coss-bench pretrain" if world_size() == 1 else "the same command and"
            say(f"interrupted; go on with: {again} --resume --out {quoted}", err=True)
        raise typer.Exit(130) from None
    if rank() == 0:
        if line := _beside_controls(exported, how["device"], how["data_root"]):
            say(line)
        say(f"encoder: {exported}")
        say(f"next: coss-bench eval {shlex.quote(str(run))} --suite all")


def _beside_controls(exported: Path, device: str, data_root: Path) -> str:
    from robustbench_coss.machine.environment import resolve_device
    from robustbench_coss.pretrain.beside_controls import beside_controls

    try:
        return beside_controls(exported, device=resolve_device(device), data_root=data_root)
    except CossError as error:  # the data set is gone since; the run is whole
        return f"kNN beside the controls was not measured: {error}"
