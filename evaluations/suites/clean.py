"""Accuracy on undisturbed images: by the linear classifier and by nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_coss.encoders.knn import NEIGHBOURS, TEMPERATURE, nearest_class
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.protocol import BaseSuite, Batch, Condition, Subject, top1
from robustbench_coss.records.about import SuiteAbout
from robustbench_coss.records.record import Axis, Metric

CHUNK = 256


class Clean(BaseSuite):
    """Top-1 and top-5 of the linear classifier, and weighted kNN over training images.

    Columns: `correct` (top-1), `top5` (label among the five highest logits, or among all where
    there are fewer classes), `knn` (weighted vote of the nearest training images).
    """

    name = "clean"
    version = 1
    axis = Axis("undisturbed image")
    about = SuiteAbout(
        title="Clean images",
        does="Images as they are: top-1 and top-5 of the classifier, and a vote of the nearest "
        "training images (kNN).",
        order=10,
    )

    def __init__(self) -> None:
        self._bank: tuple[Tensor, Tensor] | None = None

    def config(self) -> dict[str, Any]:
        return {"knn_k": NEIGHBOURS, "knn_temperature": TEMPERATURE}

    def conditions(self, subject: Subject) -> list[Condition]:
        return [Condition("clean", "", 0.0)]

    @torch.inference_mode()
    def prepare(self, subject: Subject, reference: Batch, image_size: int) -> None:
        """Fill the kNN bank with the labelled images of `reference`."""
        labelled = reference.labels >= 0
        if not labelled.any():
            raise CossError(
                "kNN needs labelled training images and there are none; choose a labelled data set"
            )
        features = [_features(subject, images) for images in torch.split(reference.images, CHUNK)]
        self._bank = (torch.cat(features)[labelled].T.contiguous(), reference.labels[labelled])

    @torch.inference_mode()
    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        if self._bank is None:
            raise RuntimeError("prepare() must be called before measure()")
        features: Tensor = subject.encoder(batch.images)
        logits = subject.classify(features)
        ranked = logits.topk(min(5, subject.classes), dim=1).indices
        bank, labels = self._bank
        neighbours = nearest_class(F.normalize(features, dim=1), bank, labels, subject.classes)
        return {
            "correct": top1(logits) == batch.labels,
            "top5": (ranked == batch.labels[:, None]).any(dim=1),
            "knn": neighbours == batch.labels,
        }

    def metrics(self, conditions: Sequence[Condition]) -> list[Metric]:
        return [
            Metric("clean_top1", "Clean top-1", "correct", ("clean",)),
            Metric("clean_top5", "Clean top-5", "top5", ("clean",), headline=False),
            Metric("clean_knn", "kNN top-1", "knn", ("clean",)),
        ]


def _features(subject: Subject, images: Tensor) -> Tensor:
    """[B, D] global representations of unit length."""
    features: Tensor = subject.encoder(images)
    return F.normalize(features, dim=1)
