"""The images of an evaluation: the roles of a data set, and which test images in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from robustbench_coss.datasets.base import ROLES, ImageSet, open_dataset
from robustbench_coss.datasets.decoded import Decoded
from robustbench_coss.datasets.image_list import listed
from robustbench_coss.datasets.pictures import PictureSet
from robustbench_coss.datasets.readable import Subset, unreadable, whole_of, without_bad
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes.features import Pixels, random_order
from robustbench_coss.evaluations.progress import Progress
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.models.checkpoint import Checkpoint
from robustbench_coss.records.record import Check

TEST_ORDER = "test order"  # the draw that orders what is measured on


@dataclass(frozen=True)
class Images:
    """What is measured on.

    Attributes:
        test: the role of the data set.
        others: training and validation images, without unreadable pictures; or why there are none,
            which a model with a head of its own can do without.
        index: data set indices of the test images to measure, in order.
        labels: [n] int64 labels of these.
        pixels: gives the pixels of test images.
        unreadable: how many pictures of a role were left out, where any were.
    """

    test: ImageSet
    others: dict[str, ImageSet | CossError]
    index: list[int]
    labels: Tensor
    pixels: Pixels
    unreadable: dict[str, int] = field(default_factory=dict)

    def role(self, name: str) -> ImageSet:
        """Images of train or validation. Raises CossError if there are none."""
        found = self.others[name]
        if isinstance(found, CossError):
            raise found
        return found


def doubt_about(unreadable: Mapping[str, int]) -> Check | None:
    """A failed check where pictures were left out, given how many of which role or other set."""
    if not unreadable:
        return None
    said = (
        f"{count:,} of {'the role ' * (name in ROLES)}{name}" for name, count in unreadable.items()
    )
    detail = f"left out since they cannot be read: {', '.join(said)}"
    return Check("all pictures can be read", False, detail)


def first_of(images: ImageSet, limit: int | None) -> list[int]:
    """Indices of labelled images in the order of measuring, the first `limit` of them."""
    found: list[int] = random_order(images, TEST_ORDER)[:limit].tolist()
    return found


def order_of(images: ImageSet, measured: Images, request: Evaluation) -> list[int]:
    """Which of a suite's own images are measured, in order.

    Where a list names the test images, these same ones of test images with other labels.

    Raises:
        CossError: there are none.
    """
    if request.image_list is None or whole_of(images) is not measured.test:
        return first_of(images, request.limit)
    listed = set(measured.index)
    if found := [index for index in first_of(images, None) if index in listed]:
        return found
    raise CossError(
        f"{request.image_list} names no picture that {images.name} has a class for; leave that set "
        "out, or name others"
    )


def open_images(
    checkpoint: Checkpoint,
    dataset: str,
    request: Evaluation,
    progress: Progress,
    workers: int | None = None,
) -> Images:
    """The images that a request names.

    Args:
        workers: threads that decode unless the request says how many.

    Raises:
        CossError: the data are missing, or hold no labelled test images that can be read.
    """
    roles: dict[str, ImageSet] = {}
    others: dict[str, ImageSet | CossError] = {}
    counts: dict[str, int] = {}
    for role in ROLES:
        try:
            roles[role] = images = open_dataset(
                dataset,
                role,
                size=int(checkpoint.metadata["size"]),
                root=Path(request.data_root),
                download=request.download,
                geometry=checkpoint.encoder.input.geometry,
            )
        except CossError as error:
            if role == "test" or checkpoint.head is None:
                raise
            others[role] = error
            continue
        if not isinstance(images, PictureSet):
            continue
        images.workers = request.workers or workers
        if request.skip_bad_images:
            progress.show(f"{dataset}: looking for {role} pictures that cannot be read")
            progress.plan(len(images))
            found = 0
            if role == "test":
                found = without_bad(images, progress.advance)
            elif bad := unreadable(images, progress.advance):
                kept = torch.ones(len(images), dtype=torch.bool)
                kept[bad] = False
                roles[role] = Subset(images, kept.nonzero().flatten())
                found = len(bad)
            if found:
                counts[role] = found
    test = roles["test"]
    order = random_order(test, TEST_ORDER)
    if request.image_list is not None:
        order = order[torch.isin(order, listed(test, Path(request.image_list)))]
        if not len(order):
            raise CossError(f"none of the pictures that {request.image_list} names can be read")
    order = order[: request.limit]
    index: list[int] = order.tolist()
    pixels = Decoded(test, index) if isinstance(test, PictureSet) else test
    others |= {role: images for role, images in roles.items() if role != "test"}
    return Images(test, others, index, test.labels[order], pixels, counts)


def check_classes(checkpoint: Checkpoint, images: Images) -> None:
    """Refuse labels that are none of the classes, and a head for another number of them.

    Raises:
        CossError: one of the two.
    """
    classes, test = len(images.test.classes), images.test
    if (highest := int(images.labels.max())) >= classes:
        raise CossError(
            f"data set {test.name!r} has {classes} classes but a test image with label {highest}; "
            "labels count from 0, so put right its labels or its classes"
        )
    if checkpoint.head is not None and checkpoint.classes != classes:
        raise CossError(
            f"{checkpoint.name} classifies into {checkpoint.classes} classes and data set "
            f"{test.name!r} has {classes}; choose another data set, or add --transfer to train a "
            "probe in place of its head"
        )
