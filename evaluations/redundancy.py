"""How alike the local representations of one image are, and how few of them suffice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evaluations.masks import random_mask
from evaluations.protocol import BaseSuite, Batch, Condition, Subject, top1
from robustbench_coss import seeds
from robustbench_coss.encoders.base import Encoder
from robustbench_coss.errors import CossError
from robustbench_coss.records import Axis, Metric

CHUNK = 256


class Redundancy(BaseSuite):
    """Accuracy with k of the n² local representations pooled, and similarities among them.

    Conditions `k@N`: column `correct` (top-1). Condition `similarity`: columns `within`,
    `across`, `local_global`, `effective_rank`, `effective_rank_share`.
    """

    name = "redundancy"
    version = 1
    axis = Axis("share of local representations pooled")

    def __init__(self) -> None:
        self._reference: Tensor | None = None

    def config(self) -> dict[str, Any]:
        return {"pooled": "1, 2, 4, … and all local representations, a random subset per image"}

    def conditions(self, subject: Subject) -> list[Condition]:
        """The ladder of k = 1, 2, 4, … n² of the subject's map; k = n² is the reference."""
        height, width = _map_size(subject)
        total = height * width
        ladder = [2**i for i in range(total.bit_length()) if 2**i < total]
        return [
            Condition(f"k@{total}", "", 1.0),
            *(Condition(f"k@{k}", "pooled", k / total) for k in reversed(ladder)),
            Condition("similarity", "similarity", 1.0),
        ]

    @torch.inference_mode()
    def prepare(self, subject: Subject, reference: Batch, image_size: int) -> None:
        """Keep the mean unit local representation of every reference image.

        Raises:
            CossError: the encoder has a single local representation.
        """
        height, width = _map_size(subject)
        if height * width < 2:
            raise CossError(
                f"redundancy needs several local representations and this model has one at "
                f"{image_size} px; use larger images or an encoder with a smaller stride"
            )
        self._reference = torch.cat(
            [mean_direction(subject.encoder.local(x)) for x in torch.split(reference.images, CHUNK)]
        )

    @torch.inference_mode()
    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        names = (seed, self.name, condition.name)
        local = subject.encoder.local(batch.images)
        if condition.group == "similarity":
            return self._similarity(subject.encoder, local, batch.index, *names)
        height, width = local.shape[-2:]
        count = round(condition.level * height * width)
        keep = None
        if count < height * width:
            keep = random_mask(batch.index, (height, width), count, *names).to(local.device)
        logits = subject.classify(subject.encoder.pool(local, keep=keep))
        return {"correct": top1(logits) == batch.labels}

    def _similarity(
        self, encoder: Encoder, local: Tensor, index: Sequence[int], *names: seeds.Name
    ) -> dict[str, Tensor]:
        if self._reference is None:
            raise RuntimeError("prepare() must be called before measure()")
        draws = seeds.uniform(np.asarray(index, dtype=np.int64), 1, *names)[:, 0]
        other = torch.from_numpy((draws * len(self._reference)).astype(np.int64))
        partner = self._reference[other.to(local.device)]
        rank = effective_rank(local)
        most = min(local.shape[1], local.shape[2] * local.shape[3])
        return {
            "within": cosine_within(local).float(),
            # The mean over all pairs of cosines is the dot product of the mean unit vectors.
            "across": (mean_direction(local) * partner).sum(dim=1).float(),
            "local_global": cosine_local_global(encoder, local),
            "effective_rank": rank.float(),
            "effective_rank_share": (rank / most).float(),
        }

    def metrics(self, conditions: Sequence[Condition]) -> list[Metric]:
        def similarity(name: str, label: str, column: str, headline: bool = False) -> Metric:
            return Metric(name, label, column, ("similarity",), "", False, headline)

        return [
            similarity("redundancy_within", "Local cosine within image", "within", headline=True),
            similarity("redundancy_across", "Local cosine across images", "across"),
            similarity("redundancy_local_global", "Local-global cosine", "local_global"),
            similarity("effective_rank", "Effective rank", "effective_rank"),
            similarity(
                "effective_rank_share", "Effective rank / full rank", "effective_rank_share"
            ),
            Metric("redundancy_single", "Top-1 from one local", "correct", ("k@1",)),
        ]


def mean_direction(local: Tensor) -> Tensor:
    """[B, C, h, w] to [B, C] float64: mean of the local representations scaled to unit length.

    A local representation of length zero stays zero.
    """
    return F.normalize(local.double(), dim=1).mean(dim=(2, 3))


def cosine_within(local: Tensor) -> Tensor:
    """Mean cosine over all unordered pairs of distinct local representations of an image.

    With unit vectors u_i, i = 1 … N: (‖Σ u_i‖² − Σ ‖u_i‖²) / (N (N − 1)), which costs N instead of
    N² products. A pair with a vector of length zero counts as cosine 0.

    Args:
        local: [B, C, h, w] with h·w ≥ 2.

    Returns:
        [B] float64 in [−1, 1].
    """
    unit = F.normalize(local.double().flatten(2), dim=1)
    count = unit.shape[2]
    total = unit.sum(dim=2).square().sum(dim=1)
    return (total - unit.square().sum(dim=(1, 2))) / (count * (count - 1))


def cosine_local_global(encoder: Encoder, local: Tensor) -> Tensor:
    """[B] float32: mean over positions of the cosine of pool(that position) with pool(all)."""
    batch, _, height, width = local.shape
    whole = encoder.pool(local).float()
    total = torch.zeros(batch, device=local.device)
    for position in range(height * width):
        keep = torch.zeros(batch, height * width, dtype=torch.bool, device=local.device)
        keep[:, position] = True
        alone = encoder.pool(local, keep=keep.view(batch, height, width)).float()
        total += F.cosine_similarity(alone, whole, dim=1)
    return total / (height * width)


def effective_rank(local: Tensor) -> Tensor:
    """exp(entropy of the normalised singular values) of each image's n² × C matrix.

    Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality".

    Args:
        local: [B, C, h, w].

    Returns:
        [B] float64 in 1 … min(n², C); 1 for a matrix of zeros.
    """
    values = torch.linalg.svdvals(local.double().flatten(2))
    share = values / values.sum(dim=1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    entropy: Tensor = torch.special.entr(share).sum(dim=1)
    return entropy.exp()


def share_for_95_percent(levels: Sequence[float], accuracies: Sequence[float]) -> float:
    """Smallest measured share of local representations that keeps 95 % of the clean accuracy.

    Clean accuracy is the one at the share 1. Nothing is interpolated between measured shares.

    Args:
        levels: shares in (0, 1], in any order, 1 among them.
        accuracies: accuracy at each, in the same order.

    Raises:
        ValueError: the lengths differ or the share 1 is missing.
    """
    measured = dict(zip(levels, accuracies, strict=True))
    if 1.0 not in measured:
        raise ValueError("the share 1 (all local representations) must be among the levels")
    return min(share for share, accuracy in measured.items() if accuracy >= 0.95 * measured[1.0])


@torch.inference_mode()
def _map_size(subject: Subject) -> tuple[int, int]:
    """(h, w) of the subject's local representations at its own input size."""
    size = subject.encoder.input.size
    blank = torch.zeros(1, 3, size, size, device=subject.encoder.mean.device)
    height, width = subject.encoder.local(blank).shape[-2:]
    return height, width
