"""Pictures that cannot be read: found before training, listed in the run folder, left out.

Not a repair: which pictures are left out is decided once per run, so that every epoch, and a run
that is resumed, sees the same training set.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from robustbench_coss.datasets.base import ArraySet, ImageSet
from robustbench_coss.datasets.readable import Subset, complaints
from robustbench_coss.errors import CossError
from robustbench_coss.pretrain.distributed import rank, reported_once, world_size
from robustbench_coss.reading import MOST_TEXT, parse_json, read_bytes

FILE_NAME = "unreadable.json"


def find_unreadable(images: ImageSet) -> dict[int, str]:
    """Read every image once; the ranks take turns and all get the answer.

    Returns:
        Index of each image that cannot be read, ascending, to what is wrong with it.
    """
    found = complaints(images, range(rank(), len(images), world_size()))
    if world_size() > 1:
        shares: list[dict[int, str]] = [{}] * world_size()
        dist.all_gather_object(shares, found)
        found = {index: reason for share in shares for index, reason in share.items()}
    return dict(sorted(found.items()))


def leave_out_unreadable(sets: Sequence[ImageSet], list_file: Path) -> tuple[list[ImageSet], str]:
    """The sets without their unreadable images; the first rank warns of how many there are.

    What an earlier start of the run found in the same data is taken from `list_file`. Sets in
    memory have nothing to check.

    Returns:
        The sets, and what `list_file` is to hold.

    Raises:
        CossError: no image of a set can be read, or `list_file` is damaged.
    """
    known = _read(list_file)
    report = {}
    left: list[ImageSet] = []
    for images in sets:
        if isinstance(images, ArraySet):
            left.append(images)
            continue
        entry = known.get(images.role, {})
        if entry.get("fingerprint") != images.fingerprint:
            found = find_unreadable(images)
            entry = {
                "fingerprint": images.fingerprint,
                "images": len(images),
                "unreadable": {str(index): reason for index, reason in found.items()},
            }
        report[images.role] = entry
        bad = {int(index) for index in entry["unreadable"]}
        if len(bad) == len(images):
            reason = next(iter(entry["unreadable"].values()))
            raise reported_once(
                CossError(f"none of the {images.role} images can be read; the first: {reason}")
            )
        kept = torch.tensor([i for i in range(len(images)) if i not in bad])
        left.append(Subset(images, kept) if bad else images)
        if bad and rank() == 0:
            warnings.warn(
                f"{len(bad)} of {len(images):,} {images.role} images cannot be read and are left "
                f"out; {list_file} lists them",
                stacklevel=1,
            )
    return left, json.dumps(report, indent=1) + "\n"


def _read(list_file: Path) -> dict[str, Any]:
    if not list_file.exists():
        return {}
    try:
        known: dict[str, Any] = parse_json(read_bytes(list_file, MOST_TEXT))
    except ValueError as error:
        raise reported_once(
            CossError(f"{list_file} is damaged; delete it and pass --skip-bad-images to look again")
        ) from error
    return known
