"""What all methods share: views, optimiser, momentum pairs, logging.

A method is a LightningModule that turns views into a loss. The training loop, checkpoints and
devices are Lightning's; what is watched during training is in `pretrain.monitors`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from lightly.models.utils import get_weight_decay_parameters, update_momentum
from lightly.utils.lars import LARS
from lightly.utils.scheduler import CosineWarmupScheduler, cosine_schedule
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from pretrain.data import TrainingBatch
from pretrain.recipe import OptimizerOptions, Recipe, explain_validation
from pretrain.views import make_views
from robustbench_coss.encoders.base import Encoder


class MethodOptions(BaseModel):
    """Options that every method has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ema: float = Field(0.99, ge=0, le=1)
    """EMA momentum of the target at the first step; it rises to 1 along a cosine."""


@dataclass(frozen=True)
class ViewOutputs:
    """What the networks give for the views of a batch, one entry per view.

    Attributes:
        local: online local representations y, [B, C, h, w].
        pooled: online global representations h, [B, D].
        target_pooled: the target encoder's global representations h', [B, D], without gradient.
    """

    local: list[Tensor]
    pooled: list[Tensor]
    target_pooled: list[Tensor]


class Method(pl.LightningModule):
    """Base of the methods.

    Subclasses define `Options`, build their heads in `__init__`, list their momentum pairs and
    define `global_loss`; to have a CO- form they also define `local_head`, `local_predictor_head`
    and `pairing`.

    Args:
        encoder: the online encoder, freshly initialised.
        recipe: the run; `recipe.options` are validated against `Options`.
    """

    Options: ClassVar[type[MethodOptions]] = MethodOptions
    exported = "online"
    views = 2

    def __init__(self, encoder: Encoder, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.encoder = encoder
        self.options = parse_options(type(self), recipe.options)
        self.momentum_pairs: list[tuple[nn.Module, nn.Module]] = []
        self.embedding_std = torch.zeros(())

    def encode(self, views: list[Tensor]) -> ViewOutputs:
        """Online local and global, and target global representations of each view."""
        raise TypeError(f"{type(self).__name__} must define encode()")

    def global_loss(self, outputs: ViewOutputs) -> Tensor:
        """The base objective, a scalar."""
        raise TypeError(f"{type(self).__name__} must define global_loss()")

    def exported_encoder(self) -> Encoder:
        """The encoder that is exported and measured, as named by `exported`."""
        return self.encoder

    def losses(self, outputs: ViewOutputs) -> dict[str, Tensor]:
        """Named loss terms; "loss" is the one that is minimised."""
        return {"loss": self.global_loss(outputs)}

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> dict[str, Tensor]:
        views = make_views(
            batch.images,
            batch.index,
            self.recipe.seed,
            self.current_epoch,
            self.views,
            self.recipe.views,
        )
        views = [view.contiguous(memory_format=torch.channels_last) for view in views]
        outputs = self.encode(views)
        losses = self.losses(outputs)
        for name, value in losses.items():
            self.log(f"train/{name}", value.detach(), on_step=False, on_epoch=True)
        self.log("train/embedding_std", self.embedding_std, on_step=False, on_epoch=True)
        return {
            "loss": losses["loss"],
            "features": outputs.pooled[0].detach(),
            "labels": batch.labels,
        }

    def watch_collapse(self, projections: Tensor) -> None:
        """Note how spread the embeddings of a batch are.

        The mean over dimensions of the standard deviation over the batch of l2-normalised
        projections, times sqrt(D): 1 for isotropic embeddings, 0 when all images get the same one
        (Chen and He 2021, SimSiam, section 4.1).
        """
        unit = nn.functional.normalize(projections.detach().float(), dim=1)
        self.embedding_std = unit.std(dim=0).mean() * unit.shape[1] ** 0.5

    def ema_momentum(self, step: int) -> float:
        """EMA momentum at an optimiser step: from `ema` to 1 along a cosine."""
        steps = int(self.trainer.estimated_stepping_batches)
        return float(cosine_schedule(step, steps, self.options.ema, 1.0))

    def on_train_batch_start(self, batch: TrainingBatch, batch_idx: int) -> None:
        momentum = self.ema_momentum(self.global_step)
        self.log("train/ema_momentum", momentum, on_step=False, on_epoch=True)
        self.log("train/lr", self.optimizers().param_groups[0]["lr"], on_step=False, on_epoch=True)  # type: ignore[union-attr]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One optimiser step, then one EMA step: under accumulation, not one per micro-batch."""
        before = self.global_step
        super().optimizer_step(*args, **kwargs)
        momentum = self.ema_momentum(before)
        for online, target in self.momentum_pairs:
            update_momentum(online, target, m=momentum)

    def configure_optimizers(self) -> Any:
        targets = {id(p) for _, target in self.momentum_pairs for p in target.parameters()}
        trained = [m for m in self.children() if not all(id(p) in targets for p in m.parameters())]
        decayed, plain = get_weight_decay_parameters(trained)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in decayed if p.requires_grad]},
            {"params": [p for p in plain if p.requires_grad], "weight_decay": 0.0},
        ]
        options = self.recipe.optimizer
        lr = options.lr * self.recipe.batch_size / 256  # linear scaling (Goyal et al. 2017)
        optimizer = build_optimizer(options, groups, lr)
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = min(round(options.warmup_epochs * steps / self.recipe.epochs), steps - 1)
        schedule = CosineWarmupScheduler(optimizer, warmup_epochs=warmup, max_epochs=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def build_optimizer(
    options: OptimizerOptions, groups: list[dict[str, Any]], lr: float
) -> torch.optim.Optimizer:
    """The optimiser of a recipe at a scaled learning rate."""
    decay = options.weight_decay
    if options.name == "lars":
        lars: torch.optim.Optimizer = LARS(
            groups, lr=lr, momentum=options.momentum, weight_decay=decay
        )
        return lars
    if options.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=options.momentum, weight_decay=decay)
    return torch.optim.AdamW(groups, lr=lr, weight_decay=decay)


def parse_options(method: type[Method], values: dict[str, Any]) -> MethodOptions:
    """Validate a method's own options. Raises CossError naming each wrong key or value."""
    try:
        return method.Options.model_validate(values)
    except ValidationError as error:
        raise explain_validation(error, f"options of {method.__name__}", method.Options) from error
