"""How alike the local representations of one image are, and how few of them suffice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_coss import seeds
from robustbench_coss.encoders.rank import effective_rank as rank_between
from robustbench_coss.encoders.rank import rankme
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.answers import answered
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject, Suite, top1
from robustbench_coss.evaluations.suites.local_probe import fit_ridge, local_channels, one_position
from robustbench_coss.evaluations.suites.masks import random_mask
from robustbench_coss.evaluations.suites.similarity import (
    cka_matrix,
    cosine_local_global,
    cosine_within,
    effective_rank,
    mean_direction,
    spread_positions,
)
from robustbench_coss.records.about import SuiteAbout
from robustbench_coss.records.metadata import FACTS
from robustbench_coss.records.record import Axis, Metric

CHUNK = 64
FEWEST = 4  # reference images without which CKA has no unbiased estimate
FULL_REFERENCE = 64  # px, up to which the reference images are as many as ranks are taken of
RANK_IMAGES = 5_000
CKA_IMAGES = 512  # 16 Gram matrices of so many images are 34 MB


@dataclass(frozen=True)
class Reference:
    """What `prepare` keeps of the reference images.

    Attributes:
        directions: [N, C] float64, mean unit local representation of each image.
        channels: [C] bool, those that the local probe reads.
        local_probe, global_probe: on single local and on global representations.
        summary: what the record keeps.
    """

    directions: Tensor
    channels: Tensor
    local_probe: nn.Linear
    global_probe: nn.Linear
    summary: dict[str, Any]


class Redundancy(Suite):
    """Accuracy with k of the n² local representations pooled, similarities among them, and probes.

    Conditions `k@N`: column `correct` (top-1). Condition `similarity`: columns `within`,
    `across`, `local_global`, `effective_rank`, `effective_rank_share`. Condition `probes`: columns
    `local_one`, `local_all`, `global_one`, `global_all` (top-1 of the local and the global probe
    on one position per image, the same for both, and on all). `summary()`: CKA between positions.
    """

    name = "redundancy"
    version = 2
    local = True
    axis = Axis("share of local representations pooled")
    about = SuiteAbout(
        title="Redundancy",
        does="Few of the local representations are pooled; and how alike those of one image are.",
        order=60,
        panels={"pooled": "Pooling some of the positions"},
        scale="log",
        suffices=True,
        pictures=("cka",),
        captions={
            "": "Top-1 against the share of local representations that are pooled, and the "
            "smallest share that keeps 95 % of clean top-1.",
            "metrics": "Similarities, effective rank and probes.",
            "cka": "CKA of pairs of positions, ordered row by row.",
        },
    )

    def __init__(self) -> None:
        self._reference: Reference | None = None

    def config(self) -> dict[str, Any]:
        return {"pooled": "1, 2, 4, … and all local representations, a random subset per image"}

    def conditions(self, subject: Subject) -> list[Condition]:
        """The ladder of k = 1, 2, 4, … n² of the subject's map; k = n² is the reference."""
        height, width = _map_size(subject)
        total = height * width
        ladder = [2**i for i in range(total.bit_length()) if 2**i < total]
        return [
            Condition(f"k@{total}", "", 1.0),
            *(Condition(f"k@{k}", "pooled", k / total, kind="k") for k in reversed(ladder)),
            Condition("similarity", "similarity", 1.0),
            Condition("probes", "probes", 1.0),
        ]

    def prepare(self, subject: Subject, reference: Batch, image_size: int) -> None:
        """Keep directions of the reference images, fit both probes to them, compute CKA.

        Raises:
            CossError: the encoder has a single local representation, gives values that are not
                finite, or there are too few reference images.
        """
        height, width = _map_size(subject)
        if height * width < 2:
            raise CossError(
                f"redundancy needs several local representations and this model has one at "
                f"{image_size} px; use larger images or an encoder with a smaller stride"
            )
        if len(reference.index) < FEWEST:
            raise CossError(
                f"redundancy needs at least {FEWEST} labelled training images, "
                f"got {len(reference.index)}; use a data set with more"
            )
        self._reference = _look_at(subject, reference, image_size > FULL_REFERENCE)

    def summary(self) -> dict[str, Any]:
        """CKA between positions and ranks of representations over training images, and how the
        probes were fitted."""
        return self._prepared().summary

    def shares(self, condition: Condition) -> bool:
        """All conditions look at the same local representations."""
        return True

    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        return next(self.measure_together(subject, batch, [condition], seed))

    @torch.inference_mode()
    def measure_together(
        self, subject: Subject, batch: Batch, conditions: Sequence[Condition], seed: int
    ) -> Iterator[dict[str, Tensor]]:
        local = subject.encoder.local(batch.images)
        for condition in conditions:
            yield self._from(local, subject, batch, condition, seed)

    def _from(
        self, local: Tensor, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        names = (seed, self.name, condition.name)
        if condition.group == "similarity":
            return self._similarity(subject, local, batch.index, *names)
        if condition.group == "probes":
            return self._probes(subject, local, batch, *names)
        height, width = local.shape[-2:]
        count = round(condition.level * height * width)
        keep = None
        if count < height * width:
            keep = random_mask(batch.index, (height, width), count, *names).to(local.device)
        logits = subject.classify(subject.encoder.pool(local, keep=keep))
        return answered(logits, batch.labels)

    def _similarity(
        self, subject: Subject, local: Tensor, index: Sequence[int], *names: seeds.Name
    ) -> dict[str, Tensor]:
        directions = self._prepared().directions
        partner = directions[draw_below(len(directions), index, *names).to(local.device)]
        rank = effective_rank(local)
        most = min(local.shape[1], local.shape[2] * local.shape[3])
        return {
            "within": cosine_within(local).float(),
            # The mean over all pairs of cosines is the dot product of the mean unit vectors.
            "across": (mean_direction(local) * partner).sum(dim=1).float(),
            "local_global": cosine_local_global(subject.encoder, local),
            "effective_rank": rank.float(),
            "effective_rank_share": (rank / most).float(),
        }

    def _probes(
        self, subject: Subject, local: Tensor, batch: Batch, *names: seeds.Name
    ) -> dict[str, Tensor]:
        known = self._prepared()
        height, width = local.shape[-2:]
        position = draw_below(height * width, batch.index, *names).to(local.device)
        keep = F.one_hot(position, height * width).bool().view(-1, height, width)
        single = one_position(local, position)[:, known.channels].float()
        # The mean of a linear probe's logits over positions is its logit for their mean.
        average = local.mean(dim=(2, 3))[:, known.channels].float()
        pool = subject.encoder.pool
        logits = {
            "local_one": known.local_probe(single),
            "local_all": known.local_probe(average),
            "global_one": known.global_probe(pool(local, keep=keep).float()),
            "global_all": known.global_probe(pool(local).float()),
        }
        return {name: top1(values) == batch.labels for name, values in logits.items()}

    def _prepared(self) -> Reference:
        if self._reference is None:
            raise RuntimeError("prepare() must be called first")
        return self._reference

    def metrics(self, conditions: Sequence[Condition]) -> list[Metric]:
        def similarity(name: str, label: str, column: str, headline: bool = False) -> Metric:
            return Metric(name, label, column, ("similarity",), "", False, headline)

        def probe(name: str, label: str, column: str) -> Metric:
            return Metric(name, label, column, ("probes",), headline=False)

        return [
            similarity("redundancy_within", "Local cosine within image", "within", headline=True),
            similarity("redundancy_across", "Local cosine across images", "across"),
            similarity("redundancy_local_global", "Local-global cosine", "local_global"),
            similarity("effective_rank", "Effective rank", "effective_rank"),
            similarity(
                "effective_rank_share", "Effective rank / full rank", "effective_rank_share"
            ),
            Metric("redundancy_single", "Top-1 from one local", "correct", ("k@1",)),
            probe("local_probe_one", "Local probe, one local", "local_one"),
            probe("local_probe_all", "Local probe, all locals", "local_all"),
            probe("global_probe_one", "Global probe, one local", "global_one"),
            probe("global_probe_all", "Global probe, all locals", "global_all"),
        ]


def draw_below(count: int, index: Sequence[int], *names: seeds.Name) -> Tensor:
    """[B] int64 on the CPU: for each sample a uniform draw from 0 … count - 1."""
    draws = seeds.uniform(np.asarray(index, dtype=np.int64), 1, *names)[:, 0]
    return torch.from_numpy((draws * count).astype(np.int64))


def _look_at(subject: Subject, reference: Batch, more: bool) -> Reference:
    """One pass over the reference images, in chunks, and all that is derived from it.

    Args:
        more: whether ranks between images are of more training images than these, where there are
            any.

    Memory: a local and a global representation for each image, and the positions compared by CKA
    for up to 512 of them.
    """
    encoder, device = subject.encoder, reference.images.device
    shape = _map_size(subject)
    compared = spread_positions(shape)
    drawn = draw_below(shape[0] * shape[1], reference.index, "redundancy", "local probe")
    images = min(CKA_IMAGES, len(reference.index))
    # Made outside inference mode, so that the probes can be fitted to them.
    single = torch.empty(len(reference.index), encoder.local_dim)
    pooled = torch.empty(len(reference.index), encoder.dim)
    positions = torch.empty(len(compared), images, encoder.local_dim)
    channels = torch.zeros(encoder.local_dim, dtype=torch.bool, device=device)
    directions = []
    with torch.inference_mode():
        for start in range(0, len(reference.index), CHUNK):
            local = encoder.local(reference.images[start : start + CHUNK])
            rows = slice(start, start + len(local))
            directions.append(mean_direction(local))
            channels = channels | local_channels(local)
            single[rows] = one_position(local, drawn[rows]).float().cpu()
            pooled[rows] = encoder.pool(local).float().cpu()
            for place, (row, column) in zip(positions, compared, strict=True):
                place[rows] = local[: max(0, images - start), :, row, column].float().cpu()
    if not bool(torch.isfinite(single).all() and torch.isfinite(pooled).all()):
        raise CossError(
            "the encoder gives NaN or infinite features on training images; its training "
            "diverged, so pretrain it again with a lower learning rate"
        )
    if not bool(channels.any()):  # all positions alike: the map is the image's own everywhere
        channels = torch.ones_like(channels)
    labels = reference.labels.cpu()
    local_fit = fit_ridge(single[:, channels.cpu()], labels, subject.classes)
    global_fit = fit_ridge(pooled, labels, subject.classes)
    cka = cka_matrix(positions[:, :, channels.cpu()])
    off_diagonal = cka[~torch.eye(len(cka), dtype=torch.bool)]
    summary = {
        "cka": [[round(value, 4) for value in row] for row in cka.tolist()],
        "cka_mean": round(float(off_diagonal.mean()), 4),
        "cka_positions": [list(position) for position in compared],
        "cka_images": images,
        "probe_images": len(labels),
        "local_probe_penalty": local_fit.penalty,
        "local_probe_held_out_top1": round(local_fit.held_out_top1, 4),
        "global_probe_penalty": global_fit.penalty,
        "global_probe_held_out_top1": round(global_fit.held_out_top1, 4),
    }
    if more and subject.training_features is not None:
        pooled, _ = subject.training_features(RANK_IMAGES)
    between = {"rankme": ("RankMe", rankme), "rank_between": ("Rank between images", rank_between)}
    summary[FACTS] = {
        key: {"label": label, "value": round(rank(pooled), 4), "images": len(pooled)}
        for key, (label, rank) in between.items()
    }
    return Reference(
        torch.cat(directions),
        channels,
        local_fit.classifier.to(device),
        global_fit.classifier.to(device),
        summary,
    )


@torch.inference_mode()
def _map_size(subject: Subject) -> tuple[int, int]:
    """(h, w) of the subject's local representations at its own input size."""
    size = subject.encoder.input.size
    blank = torch.zeros(1, 3, size, size, device=subject.encoder.mean.device)
    height, width = subject.encoder.local(blank).shape[-2:]
    return height, width
