"""Running a recipe: from a validated recipe to a run folder.

A run folder holds `recipe.yaml`, `last.ckpt` (resumable, written after every epoch),
`metrics.csv`, `tensorboard/` and, when training is over, `encoder.safetensors`. Started by torchrun
or srun, several processes share every batch (`pretrain.distributed`); the first one writes.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import threading
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from torch import distributed as dist

from robustbench_coss import registry
from robustbench_coss.datasets.base import ImageSet, open_dataset
from robustbench_coss.encoders.base import Encoder, parameters
from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.files import write_atomically
from robustbench_coss.machine.environment import device_name, resolve_device, versions
from robustbench_coss.models.checkpoint import FILE_NAME, build_encoder, save_encoder
from robustbench_coss.pretrain.bad_images import FILE_NAME as UNREADABLE_NAME
from robustbench_coss.pretrain.bad_images import leave_out_unreadable
from robustbench_coss.pretrain.data import (
    TrainingBatch,
    decoding_processes,
    explain_dead_workers,
    subset,
    training_loader,
)
from robustbench_coss.pretrain.distributed import (
    join,
    launch,
    rank,
    reported_once,
    same_outcome,
    synchronise_batchnorm,
    world_size,
)
from robustbench_coss.pretrain.methods.base import Method, parse_options
from robustbench_coss.pretrain.monitors import (
    MetricsFile,
    OnlineProbe,
    ProgressLine,
    Watch,
    last_metrics,
)
from robustbench_coss.pretrain.recipe import (
    Recipe,
    build_recipe,
    differing_keys,
    dump_recipe,
    read_recipe,
)
from robustbench_coss.pretrain.views import refuse_empty_maps
from robustbench_coss.seeds import seed_of

RECIPE_NAME = "recipe.yaml"
CHECKPOINT_NAME = "last.ckpt"
METRICS_NAME = "metrics.csv"


def run_recipe(out: Path) -> Recipe:
    """The recipe of an existing run folder. Raises CossError if there is none."""
    path = out / RECIPE_NAME
    if not path.is_file():
        raise CossError(f"nothing to resume: {out} holds no {RECIPE_NAME}; drop --resume to start")
    return build_recipe(read_recipe(str(path)), str(path))


def _check_folder(recipe: Recipe, out: Path, resume: bool) -> None:
    """Raise CossError unless the run may be written to `out`, or go on there if `resume`."""
    if resume:
        changed = set(differing_keys(recipe, run_recipe(out))) - {"workers"}  # changes no result
        if changed:
            raise CossError(
                f"{out} was started with another recipe: {', '.join(sorted(changed))} differ; "
                "resume without those options or start afresh in another --out"
            )
    elif out.exists() and not out.is_dir():
        raise CossError(f"{out} is a file; pass a folder as --out")
    elif out.exists() and any(out.iterdir()):
        raise CossError(f"{out} is not empty; pass --resume to go on with it, or another --out")


RESUMED = {"epoch", "loops", "callbacks", "optimizer_states", "lr_schedulers"}
"""What Lightning restores beside the weights."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints written like all files of this project.

    Lightning's own way goes through the system's temporary folder, from where a move to another
    disk is a copy: killed in the middle, it would leave half a checkpoint in place of a whole one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(Path(path), buffer.getvalue())


def _check_resumable(checkpoint: Path, method: Method, train: ImageSet) -> None:
    """Raise CossError unless a checkpoint is whole and fits method and data; runs no code in it."""
    remedy = "delete it to train from the beginning with --resume, or start in another --out"
    try:
        with explain_os_errors("read", checkpoint), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on how to load a foreign pickle
            stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
        shapes = {key: value.shape for key, value in stored["state_dict"].items()}
        complete = set(stored) >= RESUMED
    except CossError:
        raise
    except Exception as error:  # torch raises many kinds on damaged, foreign or malicious files
        raise CossError(
            f"{checkpoint} is truncated or not a checkpoint of this tool "
            f"({type(error).__name__}); {remedy}"
        ) from error
    if not complete or shapes != {key: value.shape for key, value in method.state_dict().items()}:
        raise CossError(f"{checkpoint} does not fit the recipe beside it; {remedy}")
    # Version 0.1.0 stored no fingerprint.
    if stored.get("dataset_fingerprint") not in (None, train.fingerprint):
        raise CossError(
            f"the training images of {train.name} are not those that {checkpoint} was trained on; "
            "restore them, or start in another --out"
        )


class ClipGradients(pl.Callback):
    """Scale the gradient of each optimiser step down to a norm.

    Lightning's own clipping refuses fused optimisers in mixed precision, on account of loss
    scaling, which bf16 does without.
    """

    def __init__(self, norm: float) -> None:
        self.norm = norm

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        torch.nn.utils.clip_grad_norm_(pl_module.parameters(), self.norm)


class StopOnSignal(pl.Callback):
    """Ctrl-C, and SIGTERM as torchrun and SLURM send it, stop after the step; a second one at once.

    An exception wherever a signal strikes may leave a lock held, on which TensorBoard's writer then
    waits for ever. Lightning's own answer to SIGTERM is a broadcast, which fails where the
    processes are told at different times.
    """

    def __init__(self) -> None:
        self.received = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():  # others may not
            signal.signal(signal.SIGINT, self._note)
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: TrainingBatch,
        batch_idx: int,
    ) -> None:
        if self.received:
            raise KeyboardInterrupt


def compile_stages(method: Method) -> None:
    """Compile the stages of every encoder of a method with torch.compile; weights stay as named."""
    for module in method.modules():
        if isinstance(module, Encoder):
            stages = {name: torch.compile(stage) for name, stage in module.stages().items()}
            module.stages = lambda stages=stages: stages  # type: ignore[method-assign, misc]


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

    Returns:
        The exported `encoder.safetensors`.

    Raises:
        CossError: anything that the user can put right; what was written before stays.
        KeyboardInterrupt: interrupted; the last finished epoch is in `last.ckpt`.
    """
    target = resolve_device(device)
    join(target)
    exported = out / FILE_NAME
    with same_outcome():
        _check_folder(recipe, out, resume)
        finished = resume and exported.is_file()
    if finished:
        return exported
    with same_outcome():
        method_type: type[Method] = registry.load("method", recipe.method)
        parse_options(method_type, recipe.options)
    with same_outcome():
        if download and rank() == 0:
            _open(recipe, data_root, download=True)
    with same_outcome():
        train, validation = _open(recipe, data_root, download)
    unreadable = ""
    if skip_bad_images or (out / UNREADABLE_NAME).exists():
        (train, validation), unreadable = leave_out_unreadable(
            (train, validation), out / UNREADABLE_NAME, decoding_processes(recipe)
        )
    _check_same_data(train)
    if method_type.uses_labels and bool((train.labels < 0).any()):
        raise reported_once(
            CossError(
                f"{recipe.method} learns from labels, and {recipe.dataset} has training images "
                "without one; choose a self-supervised --method or a labelled --dataset"
            )
        )
    checkpoint = out / CHECKPOINT_NAME
    last = checkpoint if resume and checkpoint.is_file() else None
    with same_outcome():
        torch.manual_seed(seed_of(recipe.seed, "initialisation"))
        encoder = build_encoder(recipe.arch, size=train.size, width=recipe.width, mlp=recipe.mlp)
        method = method_type(encoder, recipe, len(train.classes))
        loader = training_loader(train, recipe, method.views, method.local_crops, target)
        local_side = recipe.views.local_side(train.size)
        refuse_empty_maps(encoder, {train.size, local_side if method.local_crops else train.size})
        if last is not None:
            _check_resumable(last, method, train)
        if not resume and rank() == 0:
            write_atomically(out / RECIPE_NAME, dump_recipe(recipe))
        if unreadable and rank() == 0:
            write_atomically(out / UNREADABLE_NAME, unreadable)

    synchronise_batchnorm(method, target)
    method.to(memory_format=torch.channels_last)  # 1.3 to 1.5 times faster, on CPUs too
    if compiled:
        compile_stages(method)
    every = recipe.monitor_every or max(1, recipe.epochs // 10)
    stop = StopOnSignal()
    callbacks: list[pl.Callback] = [
        stop,
        OnlineProbe(encoder.dim, len(train.classes), recipe.seed),
        Watch(train, validation, every),
        ModelCheckpoint(
            out,
            filename=CHECKPOINT_NAME.removesuffix(".ckpt"),
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        ),
    ]
    if recipe.optimizer.clip is not None:
        callbacks.append(ClipGradients(recipe.optimizer.clip))
    if rank() == 0:
        callbacks += [
            MetricsFile(out / METRICS_NAME),
            ProgressLine(f"{recipe.method} seed {recipe.seed}", recipe.batch_size),
        ]
    started = launch()
    quieten_lightning()
    with explain_os_errors("write to", out):
        trainer = pl.Trainer(
            default_root_dir=out,
            accelerator="gpu" if target.type == "cuda" else "cpu",
            devices=started.local_world,
            num_nodes=started.world // started.local_world,
            strategy="ddp" if world_size() > 1 else "auto",
            precision="bf16-mixed" if recipe.precision == "bf16" else "32-true",
            max_epochs=recipe.epochs,
            accumulate_grad_batches=recipe.accumulate,
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            plugins=[AtomicCheckpointIO(), started.environment],
            logger=TensorBoardLogger(out, name="", version="tensorboard"),
            callbacks=callbacks,
        )
        handler = signal.getsignal(signal.SIGINT)
        try:
            with explain_dead_workers(decoding_processes(recipe)):
                trainer.fit(method, loader, ckpt_path=last, weights_only=True)
        except SystemExit as error:  # Lightning's answer to Ctrl-C, which it then ignores for good
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from error
        except torch.OutOfMemoryError as error:
            raise CossError(
                f"the GPU ran out of memory at batch size {recipe.batch_size}; start again in "
                "another --out with a smaller --batch-size, or split batches: --set accumulate=2"
            ) from error
        except RuntimeError as error:
            if not _lost_contact(error):
                raise
            if stop.received:  # by the others too, and one of them was quicker
                raise KeyboardInterrupt from error
            raise CossError(
                f"process {rank()} of {world_size()} lost contact with another one, which may have "
                "said why; the last checkpoint is kept, start the processes again with "
                f"--resume --out {out}"
            ) from error
    if rank() == 0:
        _export(exported, method, train, trainer.global_step, target)
    return exported


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


def _lost_contact(error: RuntimeError) -> bool:
    """Whether an error is that another rank went away; gloo raises plain RuntimeErrors."""
    lost = "gloo" in str(error) or "Connection" in str(error)
    return world_size() > 1 and (isinstance(error, dist.DistError) or lost)


def quieten_lightning() -> None:
    """Keep Lightning's banners and advice out of the user's terminal."""
    os.environ.setdefault("POSSIBLE_USER_WARNINGS", "off")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", module="lightning_fabric")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
