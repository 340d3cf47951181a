"""BYOL, DINO, MoCo v3 and SimCLR from lightly's classes, in a plain loop.

Heads, losses, moving averages, schedules, parameter groups and views are lightly's, put together as
its examples do; sizes and constants are those of a recipe. Nothing of `pretrain` takes part.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from lightly.loss import DINOLoss, NegativeCosineSimilarity, NTXentLoss
from lightly.models.modules.heads import (
    BYOLPredictionHead,
    BYOLProjectionHead,
    DINOProjectionHead,
    MoCoProjectionHead,
    SimCLRProjectionHead,
)
from lightly.models.utils import get_weight_decay_parameters, update_momentum
from lightly.transforms import BYOLTransform, DINOTransform, SimCLRTransform
from lightly.transforms.byol_transform import BYOLView1Transform, BYOLView2Transform
from lightly.utils.scheduler import CosineWarmupScheduler, cosine_schedule
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from robustbench_coss.encoders.base import Encoder
from robustbench_coss.pretrain.recipe import Recipe
from robustbench_coss.pretrain.views import ViewOptions


def transform_for(method: str, size: int, views: ViewOptions) -> Any:
    """lightly's transform of a method, with a recipe's strengths; pixels stay in [0, 1]."""
    shared = {
        "cj_prob": views.jitter,
        "cj_strength": 1.0,
        "cj_bright": views.brightness,
        "cj_contrast": views.contrast,
        "cj_sat": views.saturation,
        "cj_hue": views.hue,
        "random_gray_scale": views.grey,
        "sigmas": views.blur_sigma,
        "hf_prob": views.flip,
        "normalize": None,  # the encoder does that
    }
    if method == "dino":
        return DINOTransform(
            global_crop_size=size,
            global_crop_scale=(views.min_crop, views.max_crop),
            n_local_views=0,
            gaussian_blur=(*views.blur, 0.0),
            solarization_prob=views.solarize[1],
            **shared,
        )
    shared |= {"input_size": size, "min_scale": views.min_crop}
    if method == "simclr":
        return SimCLRTransform(gaussian_blur=views.blur[0], **shared)
    first, second = (
        view(gaussian_blur=blur, solarization_prob=solarize, **shared)
        for view, blur, solarize in zip(
            (BYOLView1Transform, BYOLView2Transform), views.blur, views.solarize, strict=True
        )
    )
    return BYOLTransform(first, second)


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Two views of each of [N, 3, S, S] uint8 images, by a transform of PIL pictures."""

    def __init__(self, pixels: Tensor, transform: Any) -> None:
        self.pictures = [
            Image.fromarray(np.ascontiguousarray(p.permute(1, 2, 0).numpy())) for p in pixels
        ]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        first, second = self.transform(self.pictures[index])
        return first, second


class Contestant(nn.Module):
    """A method: its networks, the loss of a pair of views, and the encoder that is measured."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.averaged: list[tuple[nn.Module, nn.Module]] = []

    def average_of(self, online: nn.Module, empty: nn.Module | None = None) -> Any:
        """A copy of a module that follows it; made in `empty` where a module cannot be copied."""
        if empty is None:
            copied = copy.deepcopy(online)
        else:
            empty.load_state_dict(online.state_dict())
            copied = empty
        copied.requires_grad_(False)
        self.averaged.append((online, copied))
        return copied

    def loss(self, first: Tensor, second: Tensor, epoch: int) -> Tensor:
        """A scalar, of views [B, 3, S, S]."""
        raise TypeError(f"{type(self).__name__} must define loss()")

    def after_backward(self, epoch: int) -> None:
        """What a method does to gradients."""

    def measured(self) -> Encoder:
        """The encoder that evaluations look at."""
        return self.encoder


class BYOL(Contestant):
    """As benchmarks/imagenet/resnet50/byol.py of lightly."""

    def __init__(self, encoder: Encoder, options: Any) -> None:
        super().__init__(encoder)
        self.projector = BYOLProjectionHead(encoder.dim, options.hidden, options.dim)
        self.predictor = BYOLPredictionHead(options.dim, options.hidden, options.dim)
        self.prepare()

    def prepare(self) -> None:
        """Targets and criterion."""
        self.teacher = self.average_of(self.encoder)
        self.teacher_projector = self.average_of(self.projector)
        self.criterion = NegativeCosineSimilarity()

    def loss(self, first: Tensor, second: Tensor, epoch: int) -> Tensor:
        with torch.no_grad():
            targets = [self.teacher_projector(self.teacher(view)) for view in (first, second)]
        one, two = (self.predictor(self.projector(self.encoder(view))) for view in (first, second))
        return self.pair(two, targets[0]) + self.pair(one, targets[1])

    def pair(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Loss of one direction."""
        loss: Tensor = 2 * self.criterion(prediction, target)
        return loss


class MoCoV3(BYOL):
    """lightly's heads with the settings that they name for MoCo v3; it has no loss of its own for
    it, so that is `contrastive_loss` of facebookresearch/moco-v3, moco/builder.py.
    """

    def __init__(self, encoder: Encoder, options: Any) -> None:
        Contestant.__init__(self, encoder)
        hidden, dim = options.hidden, options.dim
        self.projector = MoCoProjectionHead(encoder.dim, hidden, dim, 2, batch_norm=True)
        self.predictor = MoCoProjectionHead(dim, hidden, dim, 2, batch_norm=True)
        self.temperature = options.temperature
        self.prepare()

    def pair(self, prediction: Tensor, target: Tensor) -> Tensor:
        logits = F.normalize(prediction, dim=1) @ F.normalize(target, dim=1).T / self.temperature
        return F.cross_entropy(logits, torch.arange(len(logits))) * 2 * self.temperature


class SimCLR(Contestant):
    """As benchmarks/imagenet/resnet50/simclr.py of lightly."""

    def __init__(self, encoder: Encoder, options: Any) -> None:
        super().__init__(encoder)
        self.projector = SimCLRProjectionHead(encoder.dim, options.hidden, options.dim)
        self.criterion = NTXentLoss(options.temperature)

    def loss(self, first: Tensor, second: Tensor, epoch: int) -> Tensor:
        one, two = (self.projector(self.encoder(view)) for view in (first, second))
        loss: Tensor = self.criterion(one, two)
        return loss


class DINO(Contestant):
    """As benchmarks/imagenet/resnet50/dino.py of lightly, without local crops."""

    def __init__(self, encoder: Encoder, options: Any) -> None:
        super().__init__(encoder)
        self.projector, empty = (
            DINOProjectionHead(
                encoder.dim,
                options.hidden,
                options.bottleneck,
                options.prototypes,
                batch_norm=options.batch_norm,
                freeze_last_layer=options.freeze_last_layer,
            )
            for _ in range(2)
        )
        self.teacher = self.average_of(self.encoder)
        self.teacher_projector = self.average_of(self.projector, empty)
        self.criterion = DINOLoss(
            options.prototypes,
            options.warmup_teacher_temperature,
            options.teacher_temperature,
            options.warmup_teacher_temperature_epochs,
            options.student_temperature,
            options.centre_momentum,
        )

    def loss(self, first: Tensor, second: Tensor, epoch: int) -> Tensor:
        with torch.no_grad():
            teacher = [self.teacher_projector(self.teacher(view)) for view in (first, second)]
        student = [self.projector(self.encoder(view)) for view in (first, second)]
        loss: Tensor = self.criterion(teacher, student, epoch=epoch)
        return loss

    def after_backward(self, epoch: int) -> None:
        self.projector.cancel_last_layer_gradients(epoch)

    def measured(self) -> Encoder:
        encoder: Encoder = self.teacher
        return encoder


METHODS: dict[str, type[Any]] = {"byol": BYOL, "dino": DINO, "mocov3": MoCoV3, "simclr": SimCLR}


def train(recipe: Recipe, encoder: Encoder, options: Any, pixels: Tensor) -> tuple[Encoder, float]:
    """Train an encoder as a recipe says, with SGD, in one process on the CPU.

    Args:
        options: of the method, as `pretrain` understands them.
        pixels: [N, 3, S, S] uint8.

    Returns:
        The encoder that is measured, and the mean loss of the last epoch.
    """
    method: Contestant = METHODS[recipe.method](encoder, options)
    transform = transform_for(recipe.method, pixels.shape[-1], recipe.views)
    loader = DataLoader(
        Pictures(pixels, transform), recipe.batch_size, shuffle=True, drop_last=True
    )
    trained = [module for name, module in method.named_children() if "teacher" not in name]
    decayed, plain = get_weight_decay_parameters(trained)
    asked, steps = recipe.optimizer, recipe.epochs * len(loader)
    optimizer = torch.optim.SGD(
        [{"params": decayed}, {"params": plain, "weight_decay": 0.0}],
        lr=asked.lr * recipe.batch_size / 256,
        momentum=asked.momentum,
        weight_decay=asked.weight_decay,
    )
    warmup = round(asked.warmup_epochs * len(loader))
    schedule = CosineWarmupScheduler(optimizer, warmup_epochs=warmup, max_epochs=steps)
    method.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    step = 0
    for epoch in range(recipe.epochs):
        losses = []
        for first, second in loader:
            for online, average in method.averaged:
                momentum = cosine_schedule(step, steps, options.ema, 1.0)
                update_momentum(online, average, m=momentum)
            views = (v.contiguous(memory_format=torch.channels_last) for v in (first, second))
            loss = method.loss(*views, epoch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            method.after_backward(epoch)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            step += 1
    return method.measured(), sum(losses) / len(losses)
