"""Running a recipe: from a validated recipe to a run folder.

A run folder holds `recipe.yaml`, `last.ckpt` (resumable, written after every epoch),
`metrics.csv`, `tensorboard/` and, when training is over, `encoder.safetensors`. Started by torchrun
or srun, several processes share every batch (`pretrain.distributed`); the first one writes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from robustbench_coss import registry
from robustbench_coss.datasets.base import ImageSet, open_dataset
from robustbench_coss.encoders.base import parameters
from robustbench_coss.errors import CossError
from robustbench_coss.files import remove_leftovers, write_atomically
from robustbench_coss.machine.environment import device_name, resolve_device, versions
from robustbench_coss.machine.precision import native_bf16
from robustbench_coss.models.checkpoint import FILE_NAME, build_encoder, save_encoder
from robustbench_coss.pretrain.bad_images import FILE_NAME as UNREADABLE_NAME
from robustbench_coss.pretrain.bad_images import leave_out_unreadable
from robustbench_coss.pretrain.data import subset, training_loader
from robustbench_coss.pretrain.distributed import (
    join,
    rank,
    reported_once,
    same_outcome,
    synchronise_batchnorm,
    world_size,
)
from robustbench_coss.pretrain.last_checkpoint import restorable
from robustbench_coss.pretrain.loggers import check_logger, logging_to
from robustbench_coss.pretrain.loop import compile_stages, fit
from robustbench_coss.pretrain.methods.base import Method, parse_options
from robustbench_coss.pretrain.monitors import OnlineProbe, Watch, last_metrics
from robustbench_coss.pretrain.precision import settle
from robustbench_coss.pretrain.recipe import Recipe, dump_recipe
from robustbench_coss.pretrain.run_folder import (
    CHECKPOINT_NAME,
    METRICS_NAME,
    RECIPE_NAME,
    check_folder,
    locked,
)
from robustbench_coss.pretrain.views import refuse_empty_maps
from robustbench_coss.seeds import seed_of


def pretrain(
    recipe: Recipe,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    data_root: Path = Path("data"),
    download: bool = False,
    compiled: bool = False,
    skip_bad_images: bool = False,
    logger: str = "tensorboard",
) -> Path:
    """Pretrain an encoder and export it, together with the other processes of the run, if any.

    Args:
        recipe: what to train.
        out: run folder; must be new or empty unless `resume`.
        device: "auto", "cpu" or "cuda".
        resume: go on from the last checkpoint of `out`; a finished run is left as it is.
        data_root: where data sets lie.
        download: fetch a missing data set.
        compiled: compile the encoder's stages; results may be rounded otherwise.
        skip_bad_images: leave out images that cannot be read instead of stopping at the first. A
            run that began so goes on so.
        logger: where metrics go beside `metrics.csv`, one of `loggers.LOGGERS`.

    Returns:
        The exported `encoder.safetensors`.

    Raises:
        CossError: anything that the user can put right; what was written before stays.
        KeyboardInterrupt: interrupted; the last finished epoch is in `last.ckpt`.
    """
    target = resolve_device(device)
    join(target)
    exported = out / FILE_NAME
    with ExitStack() as stack:
        with same_outcome():
            check_logger(logger)
            check_folder(recipe, out, resume)
            finished = resume and exported.is_file()
            if not finished and rank() == 0:
                stack.enter_context(locked(out))
                check_folder(recipe, out, resume)  # again: another process may just have ended
        if finished:
            remove_leftovers(out)
        else:
            images = partial(_images, recipe, out, data_root, download, skip_bad_images)
            how: dict[str, Any] = {"resume": resume, "compiled": compiled, "logger": logger}
            _train(recipe, exported, target, images, **how)
    return exported


def _train(
    recipe: Recipe,
    exported: Path,
    target: torch.device,
    images: Callable[[], tuple[ImageSet, ImageSet, str]],
    *,
    resume: bool,
    compiled: bool,
    logger: str,
) -> None:
    """Train in a run folder that is this run's alone, and export."""
    out = exported.parent
    with same_outcome():
        method_type: type[Method] = registry.load("method", recipe.method)
        parse_options(method_type, recipe.options)
    train, validation, unreadable = images()
    if method_type.uses_labels and bool((train.labels < 0).any()):
        raise reported_once(
            CossError(
                f"{recipe.method} learns from labels, and {recipe.dataset} has training images "
                "without one; choose a self-supervised --method or a labelled --dataset"
            )
        )
    last, resumed = out / CHECKPOINT_NAME, None
    with same_outcome():
        torch.manual_seed(seed_of(recipe.seed, "initialisation"))
        encoder = build_encoder(recipe.arch, size=train.size, width=recipe.width, mlp=recipe.mlp)
        method = method_type(encoder, recipe, len(train.classes))
        loader = training_loader(train, recipe, method.views, method.local_crops, target)
        local_side = recipe.views.local_side(train.size)
        refuse_empty_maps(encoder, {train.size, local_side if method.local_crops else train.size})
        if resume and last.is_file():
            resumed = restorable(last, method, train, len(loader), target)
        if not resume and rank() == 0:
            write_atomically(out / RECIPE_NAME, dump_recipe(recipe))
        if unreadable and rank() == 0:
            write_atomically(out / UNREADABLE_NAME, unreadable)

    synchronise_batchnorm(method, target)
    method.to(memory_format=torch.channels_last)  # 1.3 to 1.5 times faster, on CPUs too
    method.recipe = settle(method, out, train.size, target)
    if method.recipe.precision == "bf16" and not native_bf16(target) and rank() == 0:
        warnings.warn(
            "this device has no bf16 of its own and emulates it, which is slower; train with "
            "--precision 32, or auto",
            stacklevel=1,
        )
    if compiled:
        compile_stages(method)
    every = recipe.monitor_every or max(1, recipe.epochs // 10)
    monitors = [
        OnlineProbe(encoder.dim, len(train.classes), recipe.seed),
        Watch(train, validation, every),
    ]
    with logging_to(logger, out, method.recipe) as log:
        steps = fit(method, loader, out, target, resumed, monitors, log)
    if rank() == 0:
        _export(exported, method, train, steps, target)


def _images(
    recipe: Recipe, out: Path, root: Path, download: bool, skip_bad: bool
) -> tuple[ImageSet, ImageSet, str]:
    """Training and validation images, the same for all ranks, and the list of those left out."""
    with same_outcome():
        if download and rank() == 0:
            _open(recipe, root, download=True)
    with same_outcome():
        train, validation = _open(recipe, root, download)
    unreadable = ""
    if skip_bad or (out / UNREADABLE_NAME).exists():
        (train, validation), unreadable = leave_out_unreadable(
            (train, validation), out / UNREADABLE_NAME
        )
    _check_same_data(train)
    return train, validation, unreadable


def _export(path: Path, method: Method, train: ImageSet, steps: int, device: torch.device) -> None:
    """Write the trained encoder with how it was trained."""
    recipe, trained = method.recipe, method.exported_encoder()
    save_encoder(
        path,
        trained,
        {
            "arch": recipe.arch,
            "width": recipe.width,
            "mlp": recipe.mlp,
            "size": train.size,
            "method": recipe.method,
            "encoder": method.exported,
            "dataset": recipe.dataset,
            "dataset_fingerprint": train.fingerprint,
            "parameters": parameters(trained),
            "training": {
                # Whole, with the options that were left to the method's defaults.
                "recipe": recipe.model_dump(mode="json")
                | {"options": method.options.model_dump(mode="json")},
                "images": len(subset(len(train), recipe.limit)),
                "steps": steps,
            },
            "monitors": last_metrics(path.parent / METRICS_NAME),
            "device": device_name(device),
            "processes": world_size(),
            "versions": versions(),
        },
    )


def _open(recipe: Recipe, root: Path, download: bool) -> tuple[ImageSet, ImageSet]:
    """Training and validation images of a recipe."""
    train, validation = (
        open_dataset(recipe.dataset, role, size=recipe.size, root=root, download=download)
        for role in ("train", "validation")
    )
    return train, validation


def _check_same_data(train: ImageSet) -> None:
    """Raise CossError unless all ranks see the same training images."""
    if world_size() == 1:
        return
    found: list[str] = [""] * world_size()
    dist.all_gather_object(found, train.fingerprint)
    other = next((number for number, f in enumerate(found) if f != found[0]), None)
    if other is not None:
        raise reported_once(
            CossError(
                f"processes 0 and {other} see different training images of {train.name}; "
                "give all machines the same --data-root"
            )
        )
