"""Accuracy on undisturbed images: by the linear classifier and by nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_coss.encoders.knn import AT_ONCE, NEIGHBOURS, TEMPERATURE, nearest_class
from robustbench_coss.encoders.rank import effective_rank
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.answers import answered
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject, Suite
from robustbench_coss.records.about import SuiteAbout
from robustbench_coss.records.record import Axis, Metric

CHUNK = 256
ON_DEVICE = 2**30
"""Bytes of a bank that is kept on the device; a larger one stays on the host, as float16."""
LARGEST_BANK = 12 * 2**30
"""Bytes of representations as float32 at most, of which a random sample is taken otherwise: all of
ImageNet-1K at 2,048 features are 10.5 GB."""


class Clean(Suite):
    """Top-1 and top-5 of the linear classifier, and weighted kNN over training images.

    Columns: `correct` (top-1), `top5` (label among the five highest logits, or among all where
    there are fewer classes), `knn` (weighted vote of the nearest training images).

    Args:
        bank: so many training images for kNN, a fixed random sample; None takes all of them.
    """

    name = "clean"
    version = 2
    axis = Axis("undisturbed image")
    about = SuiteAbout(
        title="Clean images",
        does="Images as they are: top-1 and top-5 of the classifier, and a vote of the nearest "
        "training images (kNN).",
        order=10,
    )

    def __init__(self, bank: int | None = None) -> None:
        if bank is not None and (type(bank) is not int or bank < 1):
            raise CossError(f"clean.bank must be a whole number of at least 1 image, got {bank!r}")
        self.bank = bank
        self._summary: dict[str, Any] = {}
        self._bank: tuple[Tensor, Tensor] | None = None

    def config(self) -> dict[str, Any]:
        return {"knn_k": NEIGHBOURS, "knn_temperature": TEMPERATURE, "knn_bank": self.bank}

    def conditions(self, subject: Subject) -> list[Condition]:
        return [Condition("clean", "", 0.0)]

    @torch.inference_mode()
    def prepare(self, subject: Subject, reference: Batch, image_size: int) -> None:
        """Fill the kNN bank with the labelled training images, or those of `reference`."""
        if subject.training_features is None:
            known = reference.labels >= 0
            parts = [subject.encoder(images) for images in torch.split(reference.images, CHUNK)]
            features, labels = torch.cat(parts)[known], reference.labels[known]
        else:
            features, labels = subject.training_features(bank_size(self.bank, subject.encoder.dim))
        if len(labels) == 0:
            raise CossError(
                "kNN needs labelled training images and there are none; choose a labelled data set"
            )
        self._summary = {"knn_bank": len(labels), "effective_rank": effective_rank(features)}
        device = reference.images.device
        self._bank = (unit_bank(features, device), labels.to(device))

    def summary(self) -> dict[str, Any]:
        """`knn_bank`, its images, and the `effective_rank` of their representations."""
        return self._summary

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
        return answered(logits, batch.labels) | {  # of NaN nothing is right, as for `top1`
            "top5": (ranked == batch.labels[:, None]).any(dim=1) & _finite(logits),
            "knn": (neighbours == batch.labels) & _finite(features),
        }

    def metrics(self, conditions: Sequence[Condition]) -> list[Metric]:
        return [
            Metric("clean_top1", "Clean top-1", "correct", ("clean",)),
            Metric("clean_top5", "Clean top-5", "top5", ("clean",), headline=False),
            Metric("clean_knn", "kNN top-1", "knn", ("clean",)),
        ]


def _finite(rows: Tensor) -> Tensor:
    return torch.isfinite(rows).all(dim=1)


def bank_size(asked: int | None, dim: int) -> int:
    """How many representations of `dim` numbers a bank holds: as many as asked for and as fit."""
    fits = LARGEST_BANK // (4 * dim)
    return fits if asked is None else min(asked, fits)


def unit_bank(features: Tensor, device: torch.device) -> Tensor:
    """[N, D] representations at unit length: on the device, or on the host as float16 where they
    are many."""
    if features.numel() * 4 <= ON_DEVICE:
        return F.normalize(features.to(device), dim=1)
    bank = torch.empty(features.shape, dtype=torch.float16)
    for start in range(0, len(features), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        bank[rows] = F.normalize(features[rows], dim=1).half()
    return bank
