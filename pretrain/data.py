"""Training batches: which samples, in which order, as which pixels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from robustbench_coss.datasets.base import ArraySet, ImageSet
from robustbench_coss.errors import CossError
from robustbench_coss.machine.environment import cores
from robustbench_coss.pretrain.distributed import rank, world_size
from robustbench_coss.pretrain.recipe import Recipe
from robustbench_coss.pretrain.upload import upload
from robustbench_coss.pretrain.views import cut_views, plan_views
from robustbench_coss.seeds import permutation

CPU = torch.device("cpu")
Key = tuple[int, int]
"""(epoch, data set index): all that the pixels of a training sample depend on, but the seed."""


@dataclass
class TrainingBatch:
    """A batch before augmentation.

    Attributes:
        images: [B, 3, S, S] uint8, or [B, views, 3, S, S] uint8 where crops are cut already.
        labels: [B] int64, -1 where unknown.
        index: data set index of each sample.
        small: [B, local views, 3, s, s] uint8 local crops, where crops are cut already and the
            method wants such views.
    """

    images: Tensor
    labels: Tensor
    index: list[int]
    small: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device, non_blocking: bool = True) -> TrainingBatch:
        """A copy on another device; Lightning calls this."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TrainingBatch:
        """A copy in page-locked memory; a DataLoader that pins calls this."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> TrainingBatch:
        small = None if self.small is None else change(self.small)
        return TrainingBatch(change(self.images), change(self.labels), self.index, small)


class Samples(Dataset[TrainingBatch]):
    """Fetches whole batches. Crops of images that differ in size are cut here, in the worker.

    Args:
        views, local_crops: numbers of global and local views that are cut.
    """

    def __init__(self, images: ImageSet, recipe: Recipe, views: int, local_crops: int = 0) -> None:
        self.images, self.recipe = images, recipe
        self.views, self.small_views = plan_views(images.size, views, local_crops, recipe.views)

    def __getitems__(self, keys: Sequence[Key]) -> TrainingBatch | CossError:
        """A batch, or what kept it from being read: see `Batches`."""
        index = [i for _, i in keys]
        labels = self.images.labels[index]
        if isinstance(self.images, ArraySet):
            at, labels = upload([np.array(index), labels.numpy()], self.images.pixels.device)
            return TrainingBatch(self.images.images(at), labels, index)
        crops, small = [], []
        try:
            for epoch, i in keys:
                image = self.images.raw(i)
                draw = partial(
                    cut_views, image, i, self.recipe.seed, epoch, options=self.recipe.views
                )
                crops.append(draw(self.views))
                if self.small_views:
                    small.append(draw(self.small_views))
        except CossError as error:
            return CossError(f"{error}, or pass --skip-bad-images to leave such pictures out")
        return TrainingBatch(
            torch.stack(crops), labels, index, torch.stack(small) if small else None
        )


class Batches(DataLoader[TrainingBatch]):
    """A DataLoader that raises a worker's CossError as it is, without the worker's traceback."""

    def __iter__(self) -> Iterator[TrainingBatch]:  # type: ignore[override]
        try:
            for batch in super().__iter__():
                if isinstance(batch, CossError):
                    raise batch
                yield batch
        except (OSError, EOFError) as error:  # the connection to a worker; pictures raise CossError
            raise _dead_worker("connection lost", self.num_workers) from error


def _dead_worker(how: str, workers: int) -> CossError:
    return CossError(
        f"a process that decodes pictures died ({how}), most often for want of memory; use fewer "
        f"with --set workers={workers // 2}, and go on from the last checkpoint, if there is one, "
        "with --resume"
    )


@contextmanager
def explain_dead_workers(workers: int) -> Iterator[None]:
    """Turn PyTorch's RuntimeError about a dead worker, wherever it strikes, into a CossError."""
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"DataLoader worker \(pid(?:\(s\))? [^)]*\) ([^.\n]*)", str(error))
        if found is None:
            raise
        raise _dead_worker(found[1].strip(), workers) from error


class EpochOrder(Sampler[Key]):
    """This rank's samples of an epoch, in an order that depends on (seed, epoch) only.

    The ranks take turns of `micro` samples: what they hold at one time, in order of rank, is what
    one process would hold.

    Args:
        chosen: data set indices to draw from.
        count: samples per epoch of all ranks, at most all there are: whole batches, so that
            accumulation never straddles two epochs.
        micro: samples that this rank takes at a time; `count` is a multiple of ranks · micro.
    """

    def __init__(self, chosen: Tensor, count: int, seed: int, micro: int) -> None:
        self.chosen, self.count, self.seed, self.micro = chosen, count, seed, micro
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Key]:
        order = permutation(len(self.chosen), "order", self.seed, self.epoch)[: self.count]
        mine = order.view(-1, world_size(), self.micro)[:, rank()].flatten()
        return iter([(self.epoch, i) for i in self.chosen[mine].tolist()])

    def __len__(self) -> int:
        return self.count // world_size()


def subset(count: int, limit: int | None) -> Tensor:
    """Sorted indices of a fixed random subset; a smaller limit gives a subset of a larger one."""
    order = permutation(count, "training subset", count)
    return order[: limit or count].sort().values


def _as_is(batch: Any) -> Any:
    return batch  # `Samples` fetches whole batches


def place(images: ArraySet, device: torch.device) -> ArraySet:
    """The set with its pixels on a GPU where they take less than a quarter of its free memory."""
    if device.type != "cuda" or images.pixels.nbytes > torch.cuda.mem_get_info(device)[0] / 4:
        return images
    return images.to(device)


def decoding_processes(recipe: Recipe) -> int:
    """Processes that decode pictures: as many as the recipe says, and as there are cores for."""
    return min(recipe.workers, cores())


def training_loader(
    images: ImageSet,
    recipe: Recipe,
    views: int,
    local_crops: int = 0,
    device: torch.device = CPU,
) -> Batches:
    """Loader of this rank's micro-batches; the last incomplete batch of an epoch is dropped.

    Args:
        views, local_crops: numbers of global and local views that the method wants.
        device: where training happens.

    Raises:
        CossError: fewer samples than one batch, a batch that does not split evenly over
            micro-batches and ranks, or micro-batches of one sample.
    """
    ranks = world_size()
    shared = f" times {ranks} processes" if ranks > 1 else ""
    micro, left = divmod(recipe.batch_size, recipe.accumulate * ranks)
    if left:
        raise CossError(
            f"batch_size {recipe.batch_size} is not a multiple of accumulate "
            f"{recipe.accumulate}{shared}; change --batch-size or --set accumulate=…"
        )
    if micro < 2:
        raise CossError(
            f"batches of {micro} sample cannot be normalised or contrasted; raise --batch-size "
            f"to at least 2 per micro-batch{' and process' if ranks > 1 else ''}"
        )
    chosen = subset(len(images), recipe.limit)
    if len(chosen) < recipe.batch_size:
        raise CossError(
            f"{len(chosen)} training images do not fill one batch of {recipe.batch_size}; "
            "lower --batch-size"
        )
    whole = len(chosen) // recipe.batch_size * recipe.batch_size
    workers = decoding_processes(recipe)
    if isinstance(images, ArraySet):
        images, workers = place(images, device), 0
    return Batches(
        Samples(images, recipe, views, local_crops),
        batch_size=micro,
        sampler=EpochOrder(chosen, whole, recipe.seed, micro),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=workers > 0 and device.type == "cuda",
        collate_fn=_as_is,
    )
