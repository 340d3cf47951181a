"""Images that are none of the data set that a model knows: other data sets, folders, lists."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from robustbench_coss import registry
from robustbench_coss.datasets.base import ImageSet, open_dataset
from robustbench_coss.datasets.folder import FolderSet
from robustbench_coss.datasets.listing import LeftOut, pictures
from robustbench_coss.errors import CossError, did_you_mean, explain_os_errors, few
from robustbench_coss.reading import from_home, read_lines
from robustbench_coss.test_sets.opening import Relabelled

CLASSES = ("other",)


def label_of(item: str) -> str:
    """What a set is called in conditions: a data set's name, that of a folder, or of a list."""
    return item if _registered(item) else Path(item).stem or Path(item).name or item


def open_others(item: str, root: Path, data_root: Path, test: ImageSet) -> ImageSet:
    """Other images at the size and geometry of the test images.

    Args:
        item: a registered data set, whose test images are taken; a folder of pictures, however
            deep; or a list of them, a file with a path and a label a line, as OpenOOD's. What is
            not where it is said to be is looked for below `root`.
        root: folder of folders and lists, which paths of lists are relative to; else to the list's.
        data_root: folder of the registered data sets.

    Raises:
        CossError: no such data set, folder or file, or nothing is in it.
    """
    if _registered(item):
        opened = open_dataset(
            item, "test", size=test.size, root=data_root, geometry=getattr(test, "geometry", None)
        )
        labels = torch.zeros(len(opened), dtype=torch.int64)
        return Relabelled(opened, item, labels, CLASSES)
    given = from_home(item)
    place = next((p for p in (given, root / given, root / given.name) if p.exists()), None)
    if place is None:
        hint = did_you_mean(item, registry.names("dataset"), "name a data set, a folder or a list")
        raise CossError(f"there is no {item!r} for suite 'ood', here or in {root}; {hint}")
    folder, paths = _listed(place, root) if place.is_file() else _below(place)
    with explain_os_errors("read", folder):
        sizes = [(folder / os.fsdecode(path)).stat().st_size for path in paths]
    found = FolderSet(
        label_of(item),
        "test",
        folder,
        np.array(paths),
        np.array(sizes, np.int64),
        torch.zeros(len(paths), dtype=torch.int64),
        CLASSES,
        test.size,
    )
    found.geometry = getattr(test, "geometry", found.geometry)
    found.workers = getattr(test, "workers", found.workers)
    return found


def shared(one: ImageSet, other: ImageSet) -> int:
    """How many pictures of a folder or list are files of another set, links on the way followed."""
    files = [
        {os.path.join(os.path.realpath(each.folder), os.fsdecode(p)) for p in each.paths.tolist()}
        for each in (one, other)
        if isinstance(each, FolderSet)
    ]
    return len(set.intersection(*files)) if len(files) == 2 else 0


def _registered(item: str) -> bool:
    return item.partition(":")[0] in registry.names("dataset")


def _below(folder: Path) -> tuple[Path, list[bytes]]:
    parent = folder.resolve().parent
    with explain_os_errors("read", folder):
        found = [path for path, _ in pictures(str(parent), folder.resolve().name, LeftOut())]
    if not found:
        raise CossError(f"{folder} holds no pictures; name a folder that does")
    return parent, [os.fsencode(path) for path in found]


def _listed(file: Path, root: Path) -> tuple[Path, list[bytes]]:
    """The folder and the relative paths of a list of pictures, sorted; labels are passed over."""
    names = []
    for line in read_lines(file):
        path, _, label = line.rpartition(" ")
        name = path.strip() if path and label.lstrip("-").isdecimal() else line
        names.append(name.removeprefix("./"))
    if not names:
        raise CossError(f"{file} names no picture; write a path and a label a line")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CossError(f"{file} names {twice} twice; remove one")
    lacking = [[n for n in names if not (f / n).is_file()] for f in (root, file.parent)]
    for folder, missing in zip((root, file.parent), lacking, strict=True):
        if not missing:
            return folder, sorted(map(os.fsencode, names))
    missing = min(lacking, key=len)
    raise CossError(
        f"{file} names {len(missing):,} pictures that are not in {root}: "
        f"{few(missing)}; pass what its paths are relative to by "
        "--set ood.root=FOLDER"
    )
