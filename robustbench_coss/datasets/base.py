"""What a data set is here: labelled uint8 images in one of three fixed roles.

`train` trains encoders and probes, `validation` (held out of the training images by a fixed
draw) watches training and chooses hyperparameters, `test` is only ever measured on.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_coss import registry
from robustbench_coss.datasets.geometry import Geometry
from robustbench_coss.errors import CossError, kind_and_line
from robustbench_coss.files import sha256_of
from robustbench_coss.seeds import permutation

ROLES = ("train", "validation", "test")

LARGEST_IMAGE = 4096
"""Side in px: more than any encoder of this tool was made for; a larger number is a slip."""


class ImageSet(Protocol):
    """Images of one role of a data set.

    Attributes:
        name: the registered name of the data set.
        role: one of `ROLES`.
        size: side of the images that `images` gives, in px.
        classes: class names; label k means classes[k].
        labels: [N] int64, -1 where an image has no label.
        fingerprint: hex digest that changes when an image, a label or the order changes.
    """

    name: str
    role: str
    size: int
    classes: tuple[str, ...]
    labels: Tensor
    fingerprint: str

    def __len__(self) -> int: ...

    def images(self, indices: Sequence[int]) -> Tensor:
        """[B, 3, size, size] uint8: the images as an evaluation sees them."""
        ...

    def raw(self, index: int) -> Tensor:
        """[3, H, W] uint8: one image before resizing, as training crops are cut from it."""
        ...


class Source(Protocol):
    """A registered data set: knows where it lies and how to get it.

    Attributes:
        name: the registered name.
        default_size: side in px that images are given when nobody asks for another.
    """

    name: str
    default_size: int

    def open(self, role: str, size: int, root: Path, download: bool) -> ImageSet:
        """The images of a role.

        Raises:
            CossError: the data are missing or damaged; the message names the path and the remedy.
        """
        ...

    def missing(self, root: Path) -> str | None:
        """None if the data are there, else what to do to get them, in one line."""
        ...


class ArraySet:
    """An `ImageSet` held whole in memory, as uint8.

    Args:
        pixels: [N, C, H, W] uint8 with C = 1 (read as grey) or 3.
        labels: [N] int64.
        pad: enlarge by a border of the value 0 instead of resampling, where `size` exceeds the
            images' own side by an even number (28 px digits become 32 px unchanged).
    """

    def __init__(
        self,
        name: str,
        role: str,
        pixels: Tensor,
        labels: Tensor,
        classes: tuple[str, ...],
        size: int,
        pad: bool = False,
    ) -> None:
        self.name, self.role, self.classes, self.size = name, role, classes, size
        self.pixels, self.labels, self.pad = pixels, labels.to(torch.int64), pad
        self.fingerprint = fingerprint_arrays(pixels, self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> ArraySet:
        """The same set with its pixels on a device, where `images` then gives them."""
        moved = copy.copy(self)
        moved.pixels = self.pixels.to(device)
        return moved

    def images(self, indices: Sequence[int] | Tensor) -> Tensor:
        """As `ImageSet.images`; indices may be a tensor on the device of the pixels."""
        pixels = self.pixels[torch.as_tensor(indices, dtype=torch.int64)]
        return fit(pixels, self.size, self.pad).expand(-1, 3, -1, -1)

    def raw(self, index: int) -> Tensor:
        return self.images([index])[0]


def fit(pixels: Tensor, size: int, pad: bool) -> Tensor:
    """[B, C, H, W] uint8 to [B, C, size, size] uint8, by zero padding or antialiased resampling."""
    side = pixels.shape[-1]
    if pixels.shape[-2] == side == size:
        return pixels
    if pad and pixels.shape[-2] == side < size and (size - side) % 2 == 0:
        margin = (size - side) // 2
        return F.pad(pixels, (margin, margin, margin, margin))
    resized = F.interpolate(
        pixels.float(), (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def fingerprint_arrays(pixels: Tensor, labels: Tensor) -> str:
    """Hex SHA-256 over shape, pixel bytes and labels."""
    header = repr((tuple(pixels.shape), str(pixels.dtype))).encode()
    body = np.ascontiguousarray(pixels.numpy()).tobytes() + labels.numpy().tobytes()
    return sha256_of(header + body)


def split_validation(count: int, share: float = 0.1) -> tuple[Tensor, Tensor]:
    """Fixed split of `count` training images into (train, validation) index tensors, sorted.

    The draw depends on `count` alone, so every run and machine holds out the same images.
    """
    order = permutation(count, "validation split", count)
    held_out = int(count * share)
    return order[held_out:].sort().values, order[:held_out].sort().values


def held_out_of(count: int, role: str, share: float = 0.1) -> Tensor:
    """Sorted indices of the images of role train or validation among `count` training images.

    Raises:
        CossError: so few images that the share of them that is held out rounds to none.
    """
    train, validation = split_validation(count, share)
    if role == "validation" and not len(validation):
        raise CossError(
            f"there are {count:,} training images, and validation, 1/{round(1 / share)} of them, "
            f"would have none; there must be at least {round(1 / share)}, or a set of validation "
            "images beside them"
        )
    return train if role == "train" else validation


def dataset_source(name: str) -> Source:
    """The data set of a name, or of a name and an option, `NAME:OPTION`.

    A source with options has a method `variant(option)`, which gives the source for one.

    Raises:
        CossError: no such name, no options, or no such option.
    """
    base, colon, option = name.partition(":")
    source: Source = registry.load("dataset", base)
    if not colon:
        return source
    if not hasattr(source, "variant"):
        raise CossError(f"data set {base!r} has no options; write {base} for {name!r}")
    chosen: Source = source.variant(option)
    return chosen


def missing_data(name: str, root: Path) -> str | None:
    """What to do about a data set that is not below `root`; None if it is there.

    Raises:
        CossError: as `dataset_source`, or the data set cannot say.
    """
    try:
        return dataset_source(name).missing(root)
    except CossError:
        raise
    except (Exception, SystemExit) as error:
        base = name.partition(":")[0]
        if registry.origin("dataset", base) == registry.OWN:
            raise
        raise registry.broken("dataset", base, f"fails: {kind_and_line(error, 300)}") from error


def open_dataset(
    name: str,
    role: str,
    *,
    size: int | None = None,
    root: Path = Path("data"),
    download: bool = False,
    geometry: Geometry | None = None,
) -> ImageSet:
    """Open one role of a registered data set.

    Args:
        name: registered name (see `registry.names("dataset")`), with an option after a colon where
            the data set has any.
        role: "train", "validation" or "test".
        size: side of the images in px; None takes the data set's own default.
        root: folder where data sets lie or are downloaded to.
        download: fetch what is missing, where the data set can be fetched.
        geometry: how whole pictures become images of that size, where a model states it; images
            that are held at a size of their own are resampled all the same.

    Raises:
        CossError: unknown name or role, missing or damaged data, or no images.
    """
    source = dataset_source(name)
    if "\0" in str(root):
        raise CossError(f"data root {str(root)!r} holds a NUL, which no file name can")
    if role not in ROLES:
        raise CossError(f"unknown role {role!r}; known: {', '.join(ROLES)}")
    size = source.default_size if size is None else size
    if size < 1:
        raise CossError(f"image size must be at least 1 px, got {size}")
    if root.exists() and not root.is_dir():
        raise CossError(f"data root {root} is a file; pass a folder as --data-root")
    images = source.open(role, size, root, download)
    if len(images) == 0:
        raise CossError(f"data set {name!r} has no {role} images in {root}; check --data-root")
    if geometry is not None and hasattr(images, "geometry") and getattr(images, "cuts", True):
        images.geometry = geometry
    return images
