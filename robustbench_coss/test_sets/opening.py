"""Published test sets opened as image sets whose labels count the set's own classes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from collections import defaultdict
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from robustbench_coss.datasets.arrays import read_array
from robustbench_coss.datasets.base import ArraySet, ImageSet
from robustbench_coss.datasets.folder import FolderSet
from robustbench_coss.datasets.listing import LeftOut, class_folders, pictures
from robustbench_coss.datasets.pictures import BadPicture
from robustbench_coss.errors import CossError, explain_os_errors, few
from robustbench_coss.files import sha256_of
from robustbench_coss.reading import MOST_JSON, parse_json, read_bytes
from robustbench_coss.test_sets.description import Description, class_map, describe, label_of

# What a regular expression's group holds for each path. An expression may need longer than anyone
# lives, and nothing in a process can stop it: one of its own ends after 0.5 s, and 0.1 ms per path,
# of computing.
_MATCH = """
import json, re, signal, sys
pattern, paths = json.load(sys.stdin)
signal.setitimer(signal.ITIMER_VIRTUAL, 0.5 + 1e-4 * len(paths))
print(json.dumps([(m := re.fullmatch(pattern, path)) and m[1] for path in paths]))
"""


@dataclass(frozen=True)
class Members:
    """The classes of a test set that a model tells apart.

    Attributes:
        names: of class folders or labels, in the order of the set's map.
        groups: for each of them the indices of the training classes that it stands for.
        whole: whether these are all classes of the set.
    """

    names: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    whole: bool

    def label_of(self, classes: int) -> Tensor:
        """[classes] int64: the set's class of each training class, -1 for those of none."""
        found = torch.full((classes,), -1)
        for number, group in enumerate(self.groups):
            found[list(group)] = number
        return found


def members(name: str, trained: Sequence[str], dataset: str) -> Members:
    """The classes of a test set among those that were trained.

    Args:
        trained: names of the training classes, in order.
        dataset: what they are the classes of, for messages.

    Raises:
        CossError: fewer than two are.
    """
    known = class_map(name)
    place = {each: number for number, each in enumerate(trained)}
    groups = {k: tuple(place[t] for t in targets if t in place) for k, targets in known.items()}
    there = {k: group for k, group in groups.items() if group}
    if len(known) < 2:
        raise CossError(f"test set {name} has one class, and there is nothing to tell apart")
    if len(there) < 2:
        wanted = [target for targets in known.values() for target in targets if target not in place]
        raise CossError(
            f"the classes of test set {label_of(name)} are not those of {dataset}: it has "
            f"{few(wanted)}, and {dataset} has {few(trained)}; measure a model of "
            f"{describe(name).trained_on}"
        )
    if len(there) < len(known):
        warnings.warn(
            f"{len(there)} of the {len(known)} classes of test set {label_of(name)} are classes of "
            f"{dataset}; it is measured on these",
            stacklevel=1,
        )
    return Members(tuple(there), tuple(there.values()), len(there) == len(known))


def find(name: str, root: Path) -> Path | None:
    """The folder of a test set below the data root, or that itself; None if it is not there."""
    told = describe(name)
    file = told.answers or told.labels.partition("/")[0]
    own = [root.parent] if root.name in {each.split("/")[0] for each in told.folders} else []
    for folder in (place / each for place in (root, *own) for each in told.folders):
        if (folder / file).is_file() if file else folder.is_dir():
            return folder
    return None


class CutPictures(FolderSet):
    """Picture files of which a border of `border` px is cut off all around."""

    border = 0

    def _picture(self, index: int) -> Image.Image:
        picture = super()._picture(index)
        (width, height), cut = picture.size, self.border
        if min(width, height) <= 2 * cut:
            raise BadPicture(
                f"picture {self.path(index)} is all border ({width} × {height} px); remove it"
            )
        return picture.crop((cut, cut, width - cut, height - cut))


class Relabelled:
    """An image set with other labels: an `ImageSet`."""

    def __init__(self, whole: ImageSet, name: str, labels: Tensor, classes: Sequence[str]) -> None:
        self.whole, self.name, self.role, self.size = whole, name, whole.role, whole.size
        self.labels, self.classes = labels, tuple(classes)
        self.fingerprint = sha256_of([whole.fingerprint, sha256_of(labels.numpy().tobytes())])

    def __len__(self) -> int:
        return len(self.whole)

    def images(self, indices: Sequence[int]) -> Tensor:
        return self.whole.images(indices)

    def raw(self, index: int) -> Tensor:
        return self.whole.raw(index)


def open_folders(name: str, place: Path, chosen: Members, test: ImageSet) -> FolderSet:
    """The pictures of a folder of class folders, at the size and geometry of the test images.

    Raises:
        CossError: its class folders are not those of the set's map, or hold no pictures.
    """
    told, known = describe(name), class_map(name)
    found = _by_pattern(told, place) if told.class_in else _by_folder(told, place, known)
    lacking = [key for key in known if key not in found]
    foreign = [] if told.others else [key for key in found if key not in known]
    if lacking or foreign:
        what = "classes" if told.class_in else "class folders"
        parts = [
            f"has {len(foreign):,} {what} that its map lacks ({few(foreign)})" if foreign else "",
            f"lacks {len(lacking):,} of its map ({few(lacking)})" if lacking else "",
        ]
        raise CossError(
            f"{place} is not laid out as test set {label_of(name)}: it "
            f"{' and '.join(filter(None, parts))}; {_remedy(place, known, foreign)}"
        )
    paths: list[bytes] = []
    sizes: list[int] = []
    labels: list[int] = []
    for number, key in enumerate(chosen.names):
        if not found[key]:
            raise CossError(
                f"class folder {key} in {place} holds no pictures; unpack the archive again"
            )
        paths += [os.fsencode(path) for path, _ in found[key]]
        sizes += [size for _, size in found[key]]
        labels += [number] * len(found[key])
    if told.numbered:
        shown = [f"{key} is {known[key][0]}" for key in chosen.names]
        warnings.warn(
            f"the class folders of {place} are numbers, read in their order: "
            f"{', '.join(shown[:3])}, …, {shown[-1]}",
            stacklevel=1,
        )
    listed = np.array(paths), np.array(sizes, np.int64), torch.tensor(labels)
    opened = CutPictures(label_of(name), "test", place, *listed, chosen.names, test.size)
    opened.border = told.border
    opened.geometry = getattr(test, "geometry", opened.geometry)
    opened.workers = getattr(test, "workers", opened.workers)
    return opened


def _remedy(place: Path, known: Container[str], foreign: Sequence[str]) -> str:
    if len(foreign) == 1 and (place / foreign[0]).is_dir():
        below = class_folders(place / foreign[0], LeftOut())
        if any(name in known for name in below):
            return f"move the folders in {place / foreign[0]} up"
    return "unpack the archive again"


Found = dict[str, list[tuple[str, int]]]
"""Class to its pictures: path below the folder, and size in bytes."""


def _by_folder(told: Description, place: Path, known: Container[str]) -> Found:
    """Pictures by class folder; of folders beyond the map only the name."""
    left_out, found = LeftOut(), {}
    for folder in class_folders(place, left_out):
        key = str(int(folder)) if told.numbered and folder.isdecimal() else folder
        if key in found:
            raise CossError(f"{place} has two class folders of number {key}; unpack it again")
        with explain_os_errors("read", place):
            found[key] = list(pictures(str(place), folder, left_out)) if key in known else []
    return found


def _by_pattern(told: Description, place: Path) -> Found:
    """Pictures by the class that their paths name.

    Raises:
        CossError: a path of another form, or an expression that takes too long on these paths.
    """
    with explain_os_errors("read", place):
        listed = [
            (path.removeprefix("./"), size) for path, size in pictures(str(place), ".", LeftOut())
        ]
    run = subprocess.run(
        [sys.executable, "-ISc", _MATCH],
        input=json.dumps([told.class_in, [path for path, _ in listed]]),
        stdout=subprocess.PIPE,
        encoding="ascii",
        check=False,
    )
    if run.returncode:
        raise CossError(
            f"class_in ({told.class_in}) takes too long on the names in {place}; write it without "
            "repeats within repeats, such as (a+)+"
        )
    found: Found = defaultdict(list)
    for (path, size), name in zip(listed, json.loads(run.stdout), strict=True):
        if name is None:
            raise CossError(
                f"{place / path} is not called as the pictures of this set are "
                f"({told.class_in}); unpack the archive again"
            )
        found[name].append((path, size))
    return found


def textures(opened: FolderSet) -> Tensor:
    """[N] int64: the class of each picture's texture, which a cue-conflict set has in its name.

    Raises:
        CossError: a name of another form, or of other classes than the folders.
    """
    numbers = {name: number for number, name in enumerate(opened.classes)}
    found = []
    for index in range(len(opened)):
        path = opened.path(index)
        match = re.fullmatch(r"([a-z_]+?)\d+-([a-z_]+?)\d+", path.stem)
        if match is None or match[1] != path.parent.name or match[2] not in numbers:
            raise CossError(
                f"{path} is not called after its shape and a texture, as airplane1-bear2.png in "
                "airplane/ is; unpack the archive again"
            )
        found.append(numbers[match[2]])
    return torch.tensor(found)


def open_arrays(name: str, place: Path, chosen: Members, test: ImageSet) -> ArraySet:
    """Pixels and labels of NumPy files, at the size of the test images.

    Raises:
        CossError: files are missing or damaged, do not fit together, or hold labels that are no
            class of the set.
    """
    told, known = describe(name), list(class_map(name))
    pixels, labels = (_array(place, file) for file in (told.images, told.labels))
    if pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.dtype != np.uint8:
        raise CossError(
            f"{place / told.images} holds {pixels.dtype} of shape {list(pixels.shape)}, expected "
            "uint8 of shape [N, side, side, 3]; download it again"
        )
    if labels.shape != pixels.shape[:1] or labels.dtype.kind not in "iu":
        raise CossError(
            f"{place / told.labels} holds {labels.dtype} of shape {list(labels.shape)} for "
            f"{len(pixels):,} pictures; download both again"
        )
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < len(known):
        raise CossError(
            f"{place / told.labels} has labels from {labels.min()} to {labels.max()}, and test set "
            f"{label_of(name)} has {len(known)} classes, from 0; download it again"
        )
    number = {key: k for k, key in enumerate(chosen.names)}
    own = torch.tensor([number.get(key, -1) for key in known])[torch.from_numpy(labels).long()]
    kept = own >= 0
    planes = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))[kept]
    return ArraySet(label_of(name), "test", planes, own[kept], chosen.names, test.size)


def _array(place: Path, file: str) -> NDArray[Any]:
    """An array of a .npy file, or of a key of a .npz file: FILE/KEY."""
    inside, _, key = file.partition("/")
    return read_array(place / inside, key)


def answers(name: str, place: Path, test: ImageSet) -> Tensor:
    """[N, K] bool: which training classes are right for each test image; none for some.

    Raises:
        CossError: the file is damaged, or the test images are not those that it numbers.
    """
    told, known = describe(name), class_map(name)
    path = place / told.answers
    lists = _lists(path, len(known))
    index = {each: k for k, each in enumerate(test.classes)}
    column = [index.get(targets[0], -1) for targets in known.values()]
    names = getattr(test, "paths", None)
    if names is None:
        raise CossError(f"{path} goes by the names of pictures, which those of {test.name} lack")
    right = torch.zeros(len(test), len(test.classes), dtype=torch.bool)
    for i in range(len(test)):
        file = Path(os.fsdecode(bytes(names[i])))
        digits = re.search(r"_(\d+)$", file.stem)
        if digits is None or not 1 <= int(digits[1]) <= len(lists):
            raise CossError(
                f"{path} goes by the numbers in names such as ILSVRC2012_val_00000293.JPEG, 1 to "
                f"{len(lists):,}, and {file.name} has none; measure on ImageNet's own names"
            )
        for answer in lists[int(digits[1]) - 1]:
            if column[answer] >= 0:
                right[i, column[answer]] = True
    return right


def _lists(path: Path, classes: int) -> list[list[int]]:
    try:
        content = parse_json(read_bytes(path, MOST_JSON))
    except (ValueError, json.JSONDecodeError) as error:
        raise CossError(f"{path} is damaged ({error}); download it again") from error
    if not isinstance(content, list) or not all(
        isinstance(row, list) and all(type(x) is int and 0 <= x < classes for x in row)
        for row in content
    ):
        raise CossError(f"{path} is no list of lists of class numbers below {classes}")
    return content


def counted(told: Description, found: int) -> str:
    """In words, how many pictures there are and should be; "" if they are as many."""
    if told.pictures in (None, found):
        return ""
    return f"{found:,} of the {told.pictures:,} pictures that were published"
