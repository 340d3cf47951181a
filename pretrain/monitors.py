"""What is watched while a method trains: accuracy, collapse, divergence, progress, metrics.

In a run of several processes, all watch what one process would: features are gathered, kNN is
shared out, and only the first process writes and prints.
"""

from __future__ import annotations

import csv
import io
import math
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from rich.progress import TextColumn
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_coss.datasets.base import ImageSet
from robustbench_coss.encoders.base import Encoder
from robustbench_coss.encoders.knn import nearest_class
from robustbench_coss.encoders.rank import effective_rank
from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.files import write_atomically
from robustbench_coss.machine.terminal import Screen, Times, progress_bar, times
from robustbench_coss.pretrain.data import TrainingBatch, subset
from robustbench_coss.pretrain.distributed import (
    gather,
    mean_over_ranks,
    rank,
    reported_once,
    sum_over_ranks,
    world_size,
)
from robustbench_coss.pretrain.methods.base import Method
from robustbench_coss.seeds import seed_of

COLLAPSED = 0.05
"""Embedding standard deviation, in units of that of isotropic embeddings, that counts as dead."""

FEWEST_DIRECTIONS, SMALLEST_SHARE = 4.0, 0.02
"""Effective rank of representations, and its share of their dimension, below which they count as
collapsed: dimensional collapse, which standard deviations do not show."""


class OnlineProbe(pl.Callback):
    """A linear classifier trained beside the method on detached features of the first view.

    It has its own optimiser (SGD, learning rate 0.1, momentum 0.9) and never touches the encoder.
    Its training accuracy is that on augmented views: a trend to watch, not a result. Every rank
    trains the same one, on the features of all ranks.
    """

    def __init__(self, dim: int, classes: int, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, "online probe"))
            self.layer = nn.Linear(dim, classes)
            self.norm = nn.BatchNorm1d(dim, affine=False)
        self.optimizer = torch.optim.SGD(self.layer.parameters(), lr=0.1, momentum=0.9)
        self.seen, self.right = torch.zeros(2, dtype=torch.int64)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.layer.to(pl_module.device)
        self.norm.to(pl_module.device)
        for state in self.optimizer.state.values():
            state["momentum_buffer"] = state["momentum_buffer"].to(pl_module.device)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: TrainingBatch,
        batch_idx: int,
    ) -> None:
        features, labels = gather(outputs["features"]).float(), gather(outputs["labels"])
        known = labels >= 0
        logits = self.layer(self.norm(features))
        each = F.cross_entropy(logits, labels.clamp_min(0), reduction="none")
        self.optimizer.zero_grad()
        loss = (each * known).sum() / known.sum().clamp_min(1)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        with torch.no_grad():  # counted on the device, read once an epoch
            self.seen += known.sum()
            self.right += (known & (logits.argmax(1) == labels)).sum()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen, self.right = torch.zeros(2, dtype=torch.int64, device=pl_module.device)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if int(self.seen):
            pl_module.log("train/probe_top1", self.right / self.seen)

    def state_dict(self) -> dict[str, Any]:
        return {
            "layer": self.layer.state_dict(),
            "norm": self.norm.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.layer.load_state_dict(state_dict["layer"])
        self.norm.load_state_dict(state_dict["norm"])
        self.optimizer.load_state_dict(state_dict["optimizer"])


@dataclass(frozen=True)
class Look:
    """What an encoder's representations are worth, without any training.

    Attributes:
        knn_top1: weighted kNN accuracy on validation images; NaN without labels.
        effective_rank: of the representations of the bank's images.
    """

    knn_top1: float
    effective_rank: float


@torch.no_grad()
def look_at(
    encoder: Encoder,
    device: torch.device,
    train: ImageSet,
    validation: ImageSet,
    bank: int = 5000,
    queries: int = 1000,
    alone: bool = False,
) -> Look:
    """kNN and effective rank of an encoder on a device.

    The bank and the queries are fixed random subsets; each rank encodes a share of them, unless one
    looks `alone`.
    """
    first, step = (0, 1) if alone else (rank(), world_size())
    was_training = encoder.training
    encoder.eval()

    def features(images: ImageSet, count: int) -> tuple[Tensor, Tensor]:
        chosen = subset(len(images), count)
        rows = torch.zeros(len(chosen), encoder.dim, device=device)
        mine = range(first, len(chosen), step)
        for start in range(0, len(mine), 250):
            some = torch.tensor(mine[start : start + 250])
            pixels = images.images(chosen[some].tolist()).to(device)
            rows[some.to(device)] = encoder(pixels.float() / 255).float()
        return (rows if alone else sum_over_ranks(rows)), images.labels[chosen].to(device)

    keys, labels = features(train, bank)
    accuracy = float("nan")
    if bool((labels >= 0).all()):
        wanted, truth = features(validation, queries)
        unit = F.normalize(wanted, dim=1), F.normalize(keys, dim=1)
        answer = nearest_class(*unit, labels, len(train.classes))
        accuracy = float((answer == truth).float().mean())
    encoder.train(was_training)
    return Look(accuracy, effective_rank(keys.cpu()))


class Diverged(CossError):
    """Training was stopped because the loss or the weights were no longer finite."""


class Watch(pl.Callback):
    """kNN and effective rank every few epochs, warnings of collapse, and a stop on divergence.

    Divergence stops training before the epoch's checkpoint is written, so the last one is good.
    Checkpoints carry the fingerprint of the training images, for `pretrain.train` to compare.
    """

    def __init__(self, train: ImageSet, validation: ImageSet, every: int) -> None:
        self.train, self.validation, self.every = train, validation, every

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: TrainingBatch,
        batch_idx: int,
    ) -> None:
        # Reading the loss makes a GPU wait, so there it is looked at every 50 steps.
        last = batch_idx + 1 == trainer.num_training_batches
        look = pl_module.device.type == "cpu" or last or batch_idx % 50 == 0
        if not look:
            return
        loss = mean_over_ranks(outputs["loss"].detach())  # so that all ranks stop together
        if not torch.isfinite(loss):
            raise self._diverged(f"the loss is {float(loss)}", trainer)

    @staticmethod
    def _diverged(what: str, trainer: pl.Trainer) -> CossError:
        return reported_once(
            Diverged(
                f"{what} in epoch {trainer.current_epoch + 1}, step {trainer.global_step}: "
                "training stopped, the last good checkpoint is kept; start again in another --out "
                "with a lower learning rate (--set optimizer.lr=…) or --precision 32"
            )
        )

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["dataset_fingerprint"] = self.train.fingerprint

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.callback_metrics.clear()  # what an earlier epoch measured is not this one's

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The last step may have spoilt the weights after a loss that was still finite.
        if not all(bool(torch.isfinite(p).all()) for p in pl_module.parameters()):
            raise self._diverged("weights are NaN or infinite", trainer)
        # Metrics are averaged over the ranks when they are first read, so all ranks read them.
        spread = float(trainer.callback_metrics.get("train/embedding_std", torch.ones(())))
        if spread < COLLAPSED and rank() == 0:
            warnings.warn(
                f"embeddings are collapsing: their standard deviation is {spread:.3f} of an "
                "isotropic one's; lower the learning rate or raise the EMA momentum",
                stacklevel=1,
            )
        epoch = trainer.current_epoch + 1
        if epoch % self.every == 0 or epoch == trainer.max_epochs:
            assert isinstance(pl_module, Method)
            encoder = pl_module.exported_encoder()
            seen = look_at(encoder, pl_module.device, self.train, self.validation)
            pl_module.log("train/effective_rank", seen.effective_rank)
            if not math.isnan(seen.knn_top1):
                pl_module.log("validation/knn_top1", seen.knn_top1)
            least = max(FEWEST_DIRECTIONS, SMALLEST_SHARE * encoder.dim)
            if seen.effective_rank < least and rank() == 0:
                warnings.warn(
                    f"representations are collapsing into few directions: their effective rank is "
                    f"{seen.effective_rank:.1f} of {encoder.dim}; raise the EMA momentum, make the "
                    "views differ more or lower the learning rate",
                    stacklevel=1,
                )


class MetricsFile(pl.Callback):
    """`metrics.csv`: one row per epoch, appended; a resumed run drops rows it will write again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, str]] = []
        self.started = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.monotonic()
        if self.path.exists() and trainer.current_epoch:
            self.rows = read_metrics(self.path)[: trainer.current_epoch]
            if [row["epoch"] for row in self.rows] != [
                str(number + 1) for number in range(trainer.current_epoch)
            ]:
                raise CossError(
                    f"{self.path} does not hold the {trainer.current_epoch} epochs that "
                    "were trained; restore it, or start in another --out"
                )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        row = {"epoch": str(epoch), "step": str(trainer.global_step)}
        for name, value in trainer.callback_metrics.items():
            row[name] = f"{float(value):.6g}"
        now = time.monotonic()
        row["seconds"] = f"{now - self.started:.2f}"
        self.started = now
        self.rows.append(row)
        names = list(dict.fromkeys(name for r in self.rows for name in r if name != "seconds"))
        text = io.StringIO()
        writer = csv.DictWriter(text, [*names, "seconds"], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.path, text.getvalue())


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a `metrics.csv`. Raises CossError if it is no such file, or damaged."""
    try:
        with explain_os_errors("read", path), path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
        for row in rows:
            for value in row.values():
                float(value or 0)
            int(row["epoch"]), float(row["seconds"])
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise CossError(
            f"{path} is damaged ({error}); restore it, or start in another --out"
        ) from error
    return rows


def last_metrics(path: Path) -> dict[str, float]:
    """Metrics of the last epoch of a `metrics.csv`, without its counts and timing."""
    row = read_metrics(path)[-1]
    return {
        name: float(value)
        for name, value in row.items()
        if value and name not in {"epoch", "step", "seconds"}
    }


class ProgressLine(pl.Callback):
    """A progress bar over all steps; without a terminal, one plain line per epoch."""

    def __init__(self, title: str, batch_size: int) -> None:
        self.console = Screen(stderr=True)
        self.title, self.batch_size = title, batch_size
        columns = Times(), TextColumn("{task.fields[note]}", markup=False)
        self.bar = progress_bar(self.console, *columns, width=10)  # a line of 80 columns at most
        self.note = ""
        self.first_step, self.started = 0, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.first_step, self.started = trainer.global_step, time.monotonic()
        total = int(trainer.estimated_stepping_batches)
        self.task = self.bar.add_task(
            self.title, total=total, completed=self.first_step, note=self._epoch(trainer)
        )
        self.bar.start()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: TrainingBatch,
        batch_idx: int,
    ) -> None:
        done = (trainer.global_step - self.first_step) * self.batch_size
        rate = done / max(time.monotonic() - self.started, 1e-6)
        note = f"{self._epoch(trainer)} {rate:.0f} img/s {self.note}"
        self.bar.update(self.task, completed=trainer.global_step, note=note)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = trainer.callback_metrics
        knn = metrics.get("validation/knn_top1")
        self.note = f"loss {float(metrics['train/loss']):.3f}"
        if knn is not None:
            self.note += f" kNN {float(knn):.1%}"
        if (directions := metrics.get("train/effective_rank")) is not None:
            self.note += f" rank {float(directions):.1f}"
        line = f"{self._epoch(trainer)} {self.note}"
        self.bar.update(self.task, note=line)
        if not self.console.is_terminal:
            elapsed = time.monotonic() - self.started
            done = trainer.global_step - self.first_step
            left = (int(trainer.estimated_stepping_batches) - trainer.global_step) * elapsed / done
            said = f"{self.title}: {line}, {times(elapsed, left)}"
            self.console.print(said, soft_wrap=True)

    @staticmethod
    def _epoch(trainer: pl.Trainer) -> str:
        return f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.bar.stop()
