"""The loop of a run, by Lightning: what it calls, how it is stopped, and what its failures mean."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import distributed as dist
from torch.utils.data import DataLoader

from robustbench_coss.encoders.base import Encoder
from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.pretrain.data import TrainingBatch, decoding_processes, explain_dead_workers
from robustbench_coss.pretrain.distributed import launch, rank, world_size
from robustbench_coss.pretrain.last_checkpoint import AtomicCheckpointIO, SaveEveryEpoch
from robustbench_coss.pretrain.methods.base import Method
from robustbench_coss.pretrain.monitors import MetricsFile, ProgressLine
from robustbench_coss.pretrain.recipe import Recipe
from robustbench_coss.pretrain.run_folder import CHECKPOINT_NAME, METRICS_NAME


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


def fit(
    method: Method,
    loader: DataLoader[TrainingBatch],
    out: Path,
    device: torch.device,
    resumed: dict[str, Any] | None,
    monitors: Sequence[pl.Callback],
    logger: Logger | bool,
) -> int:
    """Train a method to the end of its recipe, together with the other processes of the run.

    Args:
        out: run folder.
        resumed: what of its last checkpoint is restored, if it goes on.
        monitors: called before the run folder's files are written.
        logger: where metrics go beside `metrics.csv`; False for nowhere.

    Returns:
        Steps of the optimiser, those before it was resumed included.

    Raises:
        CossError: memory or the other processes are gone, or the folder cannot be written.
        KeyboardInterrupt: interrupted; the last finished epoch is in `last.ckpt`.
    """
    recipe, stop = method.recipe, StopOnSignal()
    quieten_lightning()
    with explain_os_errors("write to", out):
        callbacks, files = [stop, *monitors], AtomicCheckpointIO(resumed)
        trainer = _trainer(recipe, out, device, callbacks, files, logger)
        with _failures(stop, recipe, out), explain_dead_workers(decoding_processes(recipe)):
            last = None if resumed is None else out / CHECKPOINT_NAME
            trainer.fit(method, loader, ckpt_path=last)
    return trainer.global_step


def _trainer(
    recipe: Recipe,
    out: Path,
    device: torch.device,
    callbacks: list[pl.Callback],
    checkpoints: AtomicCheckpointIO,
    logger: Logger | bool,
) -> pl.Trainer:
    callbacks.append(SaveEveryEpoch(out / CHECKPOINT_NAME))
    if recipe.optimizer.clip is not None:
        callbacks.append(ClipGradients(recipe.optimizer.clip))
    if rank() == 0:
        callbacks += [
            MetricsFile(out / METRICS_NAME),
            ProgressLine(f"{recipe.method} seed {recipe.seed}", recipe.batch_size),
        ]
    started = launch()
    return pl.Trainer(
        default_root_dir=out,
        accelerator="gpu" if device.type == "cuda" else "cpu",
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
        plugins=[checkpoints, started.environment],
        logger=logger,
        callbacks=callbacks,
    )


@contextmanager
def _failures(stop: StopOnSignal, recipe: Recipe, out: Path) -> Iterator[None]:
    """What interrupts training, as a CossError with a remedy or a KeyboardInterrupt."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:  # Lightning's answer to Ctrl-C, which it then ignores for good
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from error
    except torch.OutOfMemoryError as error:
        raise out_of_memory(recipe) from error
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


def out_of_memory(recipe: Recipe) -> CossError:
    """What to do about a GPU that is too small for a recipe's batches."""
    return CossError(
        f"the GPU ran out of memory at batch size {recipe.batch_size}; start again in "
        "another --out with a smaller --batch-size, or split batches: --set accumulate=2"
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
