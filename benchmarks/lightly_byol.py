"""BYOL by lightly's own parts and views: what training here is compared with."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import get_weight_decay_parameters, update_momentum
from lightly.transforms import BYOLTransform
from lightly.utils.lars import LARS
from lightly.utils.scheduler import CosineWarmupScheduler, cosine_schedule
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from robustbench_coss.datasets.base import ArraySet


class Pictures(Dataset[tuple[list[Tensor], int]]):
    """The same images as PIL pictures, through lightly's own transform."""

    def __init__(self, data: ArraySet, size: int) -> None:
        self.pictures = [
            Image.fromarray(np.ascontiguousarray(p.permute(1, 2, 0).numpy())) for p in data.pixels
        ]
        self.labels = data.labels.tolist()
        self.transform = BYOLTransform()
        if size != 224:  # the transform of its defaults, at another size
            from lightly.transforms.byol_transform import BYOLView1Transform, BYOLView2Transform

            self.transform = BYOLTransform(
                view_1_transform=BYOLView1Transform(input_size=size),
                view_2_transform=BYOLView2Transform(input_size=size),
            )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[list[Tensor], int]:
        return self.transform(self.pictures[index]), self.labels[index]


class LightlyBYOL(pl.LightningModule):
    """BYOL as lightly publishes it for ImageNet (benchmarks/imagenet/resnet50/byol.py).

    The encoder is the one of the contest, and the teacher's heads are copies of the student's.
    """

    def __init__(self, encoder: nn.Module, dim: int, hidden: int, batch: int) -> None:
        super().__init__()
        self.encoder, self.batch = encoder, batch
        self.projector = BYOLProjectionHead(dim, hidden, 256)
        self.predictor = BYOLPredictionHead(256, hidden, 256)
        self.teacher = copy.deepcopy(encoder)
        self.teacher_projector = copy.deepcopy(self.projector)
        self.criterion = NegativeCosineSimilarity()
        self.probe = nn.Linear(dim, 10)

    def student(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(x)
        return features, self.predictor(self.projector(features))

    def training_step(self, batch: tuple[list[Tensor], Tensor], batch_idx: int) -> Tensor:
        momentum = cosine_schedule(
            self.trainer.global_step, int(self.trainer.estimated_stepping_batches), 0.99, 1.0
        )
        update_momentum(self.encoder, self.teacher, m=momentum)
        update_momentum(self.projector, self.teacher_projector, m=momentum)
        (first, second), labels = batch
        with torch.no_grad():
            targets = [self.teacher_projector(self.teacher(v)) for v in (first, second)]
        features, one = self.student(first)
        _, two = self.student(second)
        loss = 2 * self.criterion(targets[0], two) + 2 * self.criterion(targets[1], one)
        probe = nn.functional.cross_entropy(self.probe(features.detach()), labels)
        self.log("loss", loss)
        total: Tensor = loss + probe
        return total

    def configure_optimizers(self) -> Any:
        decayed, plain = get_weight_decay_parameters(
            [self.encoder, self.projector, self.predictor, self.probe]
        )
        groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        optimizer = LARS(groups, lr=0.45 * self.batch / 256, momentum=0.9, weight_decay=1e-6)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = CosineWarmupScheduler(optimizer, warmup_epochs=steps // 10, max_epochs=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]
