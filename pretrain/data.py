"""Training batches: which samples, in which order, as which pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pretrain.recipe import Recipe
from pretrain.views import cut_views
from robustbench_coss.datasets.base import ArraySet, ImageSet
from robustbench_coss.errors import CossError
from robustbench_coss.seeds import permutation

Key = tuple[int, int]
"""(epoch, data set index): all that the pixels of a training sample depend on, but the seed."""


@dataclass
class TrainingBatch:
    """A batch before augmentation.

    Attributes:
        images: [B, 3, S, S] uint8, or [B, views, 3, S, S] uint8 where crops are cut already.
        labels: [B] int64, -1 where unknown; used by the monitors only.
        index: data set index of each sample.
    """

    images: Tensor
    labels: Tensor
    index: list[int]

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device, non_blocking: bool = False) -> TrainingBatch:
        """A copy on another device; Lightning calls this."""
        return TrainingBatch(
            self.images.to(device, non_blocking=non_blocking),
            self.labels.to(device, non_blocking=non_blocking),
            self.index,
        )


class Samples(Dataset[TrainingBatch]):
    """Fetches whole batches. Crops of images that differ in size are cut here, in the worker."""

    def __init__(self, images: ImageSet, recipe: Recipe, views: int) -> None:
        self.images, self.recipe, self.views = images, recipe, views

    def __getitems__(self, keys: Sequence[Key]) -> TrainingBatch:
        index = [i for _, i in keys]
        if isinstance(self.images, ArraySet):
            pixels = self.images.images(index)
        else:
            pixels = torch.stack(
                [
                    cut_views(
                        self.images.raw(i),
                        i,
                        self.recipe.seed,
                        epoch,
                        self.views,
                        self.images.size,
                        self.recipe.views,
                    )
                    for epoch, i in keys
                ]
            )
        return TrainingBatch(pixels, self.images.labels[index], index)


class EpochOrder(Sampler[Key]):
    """Samples of an epoch, in an order that depends on (seed, epoch) only.

    Args:
        chosen: data set indices to draw from.
        count: samples per epoch, at most all: whole batches, so that accumulation never
            straddles two epochs.
    """

    def __init__(self, chosen: Tensor, count: int, seed: int) -> None:
        self.chosen, self.count, self.seed, self.epoch = chosen, count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Key]:
        order = permutation(len(self.chosen), "order", self.seed, self.epoch)
        return iter([(self.epoch, i) for i in self.chosen[order[: self.count]].tolist()])

    def __len__(self) -> int:
        return self.count


def subset(count: int, limit: int | None) -> Tensor:
    """Sorted indices of a fixed random subset; a smaller limit gives a subset of a larger one."""
    order = permutation(count, "training subset", count)
    return order[: limit or count].sort().values


def _as_is(batch: Any) -> Any:
    return batch  # `Samples` fetches whole batches


def training_loader(images: ImageSet, recipe: Recipe, views: int) -> DataLoader[TrainingBatch]:
    """Loader of one run's micro-batches; the last incomplete batch of an epoch is dropped.

    Raises:
        CossError: fewer samples than one batch, or micro-batches of one sample.
    """
    if recipe.batch_size % recipe.accumulate:
        raise CossError(
            f"batch_size {recipe.batch_size} is not a multiple of accumulate {recipe.accumulate}"
        )
    micro = recipe.batch_size // recipe.accumulate
    if micro < 2:
        raise CossError(
            f"batches of {micro} sample cannot be normalised or contrasted; "
            "raise --batch-size to at least 2 per micro-batch"
        )
    chosen = subset(len(images), recipe.limit)
    if len(chosen) < recipe.batch_size:
        raise CossError(
            f"{len(chosen)} training images do not fill one batch of {recipe.batch_size}; "
            "lower --batch-size"
        )
    in_memory = isinstance(images, ArraySet)
    whole = len(chosen) // recipe.batch_size * recipe.batch_size
    loader: DataLoader[TrainingBatch] = DataLoader(
        Samples(images, recipe, views),
        batch_size=micro,
        sampler=EpochOrder(chosen, whole, recipe.seed),
        num_workers=0 if in_memory else recipe.workers,
        collate_fn=_as_is,
    )
    return loader
