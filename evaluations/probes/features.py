"""Images in batches on a device, and the features that a frozen encoder gives them.

The one place where evaluation reads pixels: uint8 from the data set to float32 in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from robustbench_coss.datasets.base import ImageSet
from robustbench_coss.datasets.pictures import BadPicture
from robustbench_coss.datasets.readable import forget
from robustbench_coss.encoders.base import Encoder
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.progress import Progress
from robustbench_coss.evaluations.protocol import Batch
from robustbench_coss.machine.precision import tf32
from robustbench_coss.seeds import permutation

Model = TypeVar("Model", bound=nn.Module)


def to_device(model: Model, device: torch.device) -> Model:
    """The model moved, in channels-last layout on CUDA, where convolutions are faster in it."""
    if device.type == "cuda":
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    else:
        model.to(device)
    return model


class Pixels(Protocol):
    """What gives the pixels of images; an `ImageSet` does."""

    def images(self, indices: Sequence[int], /) -> Tensor:
        """[B, 3, S, S] uint8."""
        ...


def read_batch(
    images: ImageSet,
    indices: Sequence[int],
    device: torch.device,
    pixels: Pixels | None = None,
) -> Batch:
    """The samples at `indices` as a `Batch` on a device; `pixels` as in `batches`."""
    return _to_batch(images, indices, _read(images, indices, pixels), device)


def _read(images: ImageSet, indices: Sequence[int], pixels: Pixels | None) -> Tensor:
    try:
        return (pixels or images).images(indices)
    except BadPicture as error:
        forget(images)
        raise CossError(
            f"{error}, or run again with --skip-bad-images to leave such pictures out"
        ) from error


class OnDevice:
    """Batches of uint8 pixels that stay on a GPU for the next pass, up to 1/8 of its memory."""

    def __init__(self, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self.left = torch.cuda.get_device_properties(device).total_memory // 8 if cuda else 0
        self.batches: dict[tuple[int, int, int], Tensor] = {}

    def keep(self, key: tuple[int, int, int], pixels: Tensor) -> None:
        """Keep a batch if there is room for it."""
        if pixels.nbytes <= self.left:
            self.left -= pixels.nbytes
            self.batches[key] = pixels


def batches(
    images: ImageSet,
    indices: Sequence[int],
    batch_size: int,
    device: torch.device,
    pixels: Pixels | None = None,
    kept: OnDevice | None = None,
) -> Iterator[Batch]:
    """The samples at `indices` in order, `batch_size` at a time.

    The next batch is read, and on its way to a GPU, on a thread while the caller works on the
    current one, so at most two batches are in memory whatever the size of the data set.

    Args:
        pixels: gives those of the images in place of the data set.
        kept: of earlier passes over the same images in the same order.
    """
    chunks = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def read(chunk: Sequence[int]) -> Tensor:
        key = (chunk[0], chunk[-1], len(chunk))
        if kept is not None and key in kept.batches:
            return kept.batches[key]
        found = _read(images, chunk, pixels)
        if stream is None:
            return found
        with torch.cuda.stream(stream):  # beside what the current batch has the GPU do
            moved = found.pin_memory().to(device, non_blocking=True)
        stream.synchronize()
        if kept is not None:
            kept.keep(key, moved)
        return moved

    with ThreadPoolExecutor(max_workers=1) as reader:
        pending = reader.submit(read, chunks[0]) if chunks else None
        for number, chunk in enumerate(chunks, start=1):
            assert pending is not None
            found = pending.result()
            if number < len(chunks):
                pending = reader.submit(read, chunks[number])
            if stream is not None:
                found.record_stream(torch.cuda.current_stream(device))
            yield _to_batch(images, chunk, found, device)


def extract(
    encoder: Encoder,
    images: ImageSet,
    indices: Sequence[int],
    *,
    batch_size: int,
    device: torch.device,
    progress: Progress,
) -> tuple[Tensor, Tensor]:
    """Global representations of unaugmented images by a frozen encoder.

    All features are held in memory as float32: N · D · 4 bytes, which is 10.5 GB for the whole
    of ImageNet-1K at D = 2048.

    Returns:
        Features [N, D] float32 and labels [N] int64, both on the CPU, in the order of `indices`.

    Raises:
        CossError: a feature is NaN or infinite.
    """
    to_device(encoder.eval(), device)
    features = torch.empty(len(indices), encoder.dim)
    done = 0
    with torch.inference_mode(), tf32(False):
        for batch in batches(images, indices, batch_size, device):
            found = encoder(batch.images).float()
            if not bool(torch.isfinite(found).all()):
                raise CossError(
                    f"the encoder gives NaN or infinite features on {images.name!r} "
                    f"({images.role}); its training diverged, so pretrain it again with a lower "
                    "learning rate"
                )
            features[done : done + len(found)] = found.cpu()
            done += len(found)
            progress.advance(len(found))
    return features, images.labels[torch.as_tensor(indices, dtype=torch.int64)]


def reference_batch(train: ImageSet, device: torch.device) -> Batch:
    """The fixed training images that suites may prepare with.

    5,000 of them up to 64 px (246 MB of floats), 512 above (308 MB at 224 px), or all there are:
    enough for a kNN bank, and bounded.
    """
    count = 5_000 if train.size <= 64 else 512
    indices: list[int] = random_order(train, "reference batch")[:count].tolist()
    return read_batch(train, indices, device)


def random_order(images: ImageSet, draw: str) -> Tensor:
    """int64 indices of all labelled images in the fixed random order that a draw's name seeds."""
    return labelled(images, permutation(len(images), draw, len(images)))


def labelled(images: ImageSet, order: Tensor) -> Tensor:
    """Those of the indices `order` whose image has a label, in the same order.

    Raises:
        CossError: none has one.
    """
    chosen = order[images.labels[order] >= 0]
    if len(chosen) == 0:
        raise CossError(
            f"data set {images.name!r} has no labelled {images.role} images; "
            "evaluation needs labels, so choose another data set"
        )
    return chosen


def _to_batch(
    images: ImageSet, indices: Sequence[int], pixels: Tensor, device: torch.device
) -> Batch:
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    # Bytes travel to the device, floats are made there: a quarter of the traffic.
    scaled = pixels.to(device).float().div_(255).contiguous(memory_format=layout)
    labels = images.labels[torch.as_tensor(indices, dtype=torch.int64)].to(device)
    return Batch(scaled, labels, indices)
