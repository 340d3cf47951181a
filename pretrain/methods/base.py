"""What all methods share: views, networks and their targets, optimiser, logging.

A method is a LightningModule that turns views into a loss. The training loop, checkpoints and
devices are Lightning's; what is watched during training is in `robustbench_coss.pretrain.monitors`.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from lightly.models.utils import get_weight_decay_parameters, update_momentum
from lightly.utils.scheduler import CosineWarmupScheduler, cosine_schedule
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from robustbench_coss.encoders.base import Encoder
from robustbench_coss.pretrain.data import TrainingBatch
from robustbench_coss.pretrain.distributed import gather
from robustbench_coss.pretrain.methods.losses import Pairing
from robustbench_coss.pretrain.optimizers import build_optimizer
from robustbench_coss.pretrain.recipe import Recipe, explain_validation
from robustbench_coss.pretrain.views import make_views


class MethodOptions(BaseModel):
    """Options of a method; each method extends them."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MomentumOptions(MethodOptions):
    """Options of methods whose target follows the online networks."""

    ema: float = Field(0.99, ge=0, le=1)
    """EMA momentum of the target at the first step; it rises to 1 along a cosine."""


@dataclass(frozen=True)
class ViewOutputs:
    """What the networks give for a batch, one entry per global view.

    Attributes:
        local: online maps that local representations are taken from, [B, C, h, w].
        pooled: online global representations h, [B, D].
        target_pooled: the target's global representations h', [B, D].
        small_pooled: online global representations of the local crops of multi-crop methods.
        labels: [B] int64, -1 where unknown; empty where nobody asked.
    """

    local: list[Tensor]
    pooled: list[Tensor]
    target_pooled: list[Tensor]
    small_pooled: list[Tensor]
    labels: Tensor


class Method(pl.LightningModule):
    """Base of the methods.

    Subclasses define `Options` and `global_loss` and build their heads in `__init__`. To have a
    CO- form (`robustbench_coss.pretrain.methods.local_global.co`), a method defines `make_heads`.

    Args:
        encoder: the online encoder, freshly initialised.
        recipe: the run; `recipe.options` are validated against `Options`.
        classes: number of classes, for methods that learn from labels.
    """

    Options: ClassVar[type[MethodOptions]] = MethodOptions
    exported = "online"
    views = 2
    multi_crop = False
    uses_labels = False
    sums_directions = True  # of a pair of views; else their mean is taken

    def __init__(self, encoder: Encoder, recipe: Recipe, classes: int = 0) -> None:
        super().__init__()
        self.recipe = recipe
        self.encoder = encoder
        self.classes = classes
        self.options = parse_options(type(self), recipe.options)
        self.local_crops = recipe.views.local_crops if self.multi_crop else 0
        self.layer = next(reversed(encoder.stages()))
        self.momentum_pairs: list[tuple[nn.Module, nn.Module]] = []
        self.embedding_std = torch.zeros(())
        self._noted: dict[str, Tensor | float] = {}

    def make_heads(self) -> tuple[nn.Module, nn.Module, Pairing]:
        """New projector [M, D] -> [M, K], predictor [M, K] -> [M, K] and pairing of one branch."""
        raise TypeError(f"{type(self).__name__} must define make_heads() to have a CO- form")

    def add_branch(self, prefix: str) -> None:
        """Make the heads of one branch: `{prefix}projector`, its target, and so on."""
        projector, predictor, pairing = self.make_heads()
        setattr(self, f"{prefix}projector", projector)
        setattr(self, f"{prefix}predictor", predictor)
        setattr(self, f"{prefix}pairing", pairing)

    def branch(self, prefix: str) -> tuple[nn.Module, nn.Module, Pairing]:
        """Projector, predictor and pairing of a branch."""
        return tuple(getattr(self, prefix + part) for part in ("projector", "predictor", "pairing"))

    def target_pooled(self, views: list[Tensor], pooled: list[Tensor]) -> list[Tensor]:
        """Global representations that the targets are made from, one [B, D] per view."""
        return pooled

    def targets(self, prefix: str, outputs: ViewOutputs) -> list[Tensor]:
        """Targets u of a branch, one [B, K] per view."""
        projector = self.branch(prefix)[0]
        return [projector(h) for h in outputs.target_pooled]

    def encode(self, views: list[Tensor]) -> ViewOutputs:
        """Representations of the global views, and of the local crops that may follow them."""
        last = next(reversed(self.encoder.stages()))
        maps = self.encoder.each_maps(views[: self.views])
        pooled = [self.encoder.pool(found[last]) for found in maps]
        small: list[Tensor] = []
        if len(views) > self.views:  # crops of one size go through in one piece, as in DINO
            crops = views[self.views :]
            small = list(self.encoder(torch.cat(crops)).chunk(len(crops)))
        return ViewOutputs(
            local=[found[self.layer] for found in maps],
            pooled=pooled,
            target_pooled=self.target_pooled(views[: self.views], pooled),
            small_pooled=small,
            labels=torch.empty(0, dtype=torch.long),
        )

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
            self.local_crops,
            batch.small,
        )
        views = [view.contiguous(memory_format=torch.channels_last) for view in views]
        outputs = replace(self.encode(views), labels=batch.labels)
        losses = self.losses(outputs)
        for name, value in losses.items():
            self.note(name, value.detach())
        self.note("embedding_std", self.embedding_std)
        if self.trainer.is_last_batch:
            self._log_means(batch_idx + 1, over_ranks=losses.keys())
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
        unit = gather(nn.functional.normalize(projections.detach().float(), dim=1))
        self.embedding_std = unit.std(dim=0).mean() * unit.shape[1] ** 0.5

    def on_train_batch_start(self, batch: TrainingBatch, batch_idx: int) -> None:
        if batch_idx == 0:
            self._noted.clear()
        self.note("lr", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]

    def note(self, name: str, value: Tensor | float) -> None:
        """Have the mean of a number over the steps of an epoch logged as `train/{name}`.

        Summed here: Lightning's `log` of each step takes longer than an EMA step of a small model.
        """
        self._noted[name] = self._noted.get(name, 0.0) + value

    def _log_means(self, steps: int, over_ranks: Collection[str]) -> None:
        for name, total in self._noted.items():
            # A number of the host goes as a tensor in its memory: else Lightning stops a GPU. It is
            # every rank's own, as between GPUs nothing in that memory can be averaged.
            mean, synced = torch.as_tensor(total / steps), name in over_ranks
            self.log(f"train/{name}", mean, on_step=False, on_epoch=True, sync_dist=synced)

    def make_optimizer(self, device: torch.device) -> torch.optim.Optimizer:
        """The optimiser of the recipe over all parameters that are trained."""
        targets = {id(p) for _, target in self.momentum_pairs for p in target.parameters()}
        trained = [m for m in self.children() if not all(id(p) in targets for p in m.parameters())]
        decayed, plain = get_weight_decay_parameters(trained)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in decayed if p.requires_grad]},
            {"params": [p for p in plain if p.requires_grad], "weight_decay": 0.0},
        ]
        options = self.recipe.optimizer
        lr = options.lr * self.recipe.batch_size / 256  # linear scaling (Goyal et al. 2017)
        return build_optimizer(options, groups, lr, fused=device.type == "cuda")

    def configure_optimizers(self) -> Any:
        optimizer, options = self.make_optimizer(self.device), self.recipe.optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = min(round(options.warmup_epochs * steps / self.recipe.epochs), steps - 1)
        schedule = CosineWarmupScheduler(optimizer, warmup_epochs=warmup, max_epochs=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class MomentumMethod(Method):
    """Base of methods whose targets come from a moving average of the online networks.

    Parameters are averaged; BatchNorm's running statistics are the target's own.
    """

    Options = MomentumOptions
    options: MomentumOptions

    def __init__(self, encoder: Encoder, recipe: Recipe, classes: int = 0) -> None:
        super().__init__(encoder, recipe, classes)
        self.target_encoder = self.follow(encoder)

    def follow(self, online: nn.Module) -> Any:
        """A frozen copy of a module, which from now on moves towards it by EMA."""
        target = copy.deepcopy(online).requires_grad_(False)
        self.momentum_pairs.append((online, target))
        return target

    def add_branch(self, prefix: str) -> None:
        super().add_branch(prefix)
        setattr(self, f"target_{prefix}projector", self.follow(self.branch(prefix)[0]))

    @torch.no_grad()
    def target_pooled(self, views: list[Tensor], pooled: list[Tensor]) -> list[Tensor]:
        encoder = self.target_encoder
        return [encoder.pool(local) for local in encoder.each_local(views)]

    @torch.no_grad()
    def targets(self, prefix: str, outputs: ViewOutputs) -> list[Tensor]:
        projector = self.get_submodule(f"target_{prefix}projector")
        return [projector(h) for h in outputs.target_pooled]

    def ema_momentum(self, step: int) -> float:
        """EMA momentum at an optimiser step: from `ema` to 1 along a cosine."""
        steps = int(self.trainer.estimated_stepping_batches)
        return float(cosine_schedule(step, steps, self.options.ema, 1.0))

    def on_train_batch_start(self, batch: TrainingBatch, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        self.note("ema_momentum", self.ema_momentum(self.global_step))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One optimiser step, then one EMA step: under accumulation, not one per micro-batch."""
        before = self.global_step
        super().optimizer_step(*args, **kwargs)
        momentum = self.ema_momentum(before)
        for online, target in self.momentum_pairs:
            update_momentum(online, target, m=momentum)  # parameters only, with foreach kernels


def parse_options(method: type[Method], values: dict[str, Any]) -> MethodOptions:
    """Validate a method's own options. Raises CossError naming each wrong key or value."""
    try:
        return method.Options.model_validate(values)
    except ValidationError as error:
        raise explain_validation(error, f"options of {method.__name__}", method.Options) from error
