"""What lies in folders of pictures: classes in their order, the pictures, and what is left out."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from robustbench_coss.datasets.pictures import ENDINGS
from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.reading import kind_of

SYSTEM = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
"""Folders that archives and systems leave behind."""


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names sorted as text, but numbers in them by their value: 0, 1, 2, 10; class2, class10."""

    def key(name: str) -> tuple[str, str]:
        return re.sub("[0-9]+", lambda digits: digits[0].lstrip("0").zfill(30), name), name

    return tuple(sorted(names, key=key))


def same_name(name: str) -> str:
    """One spelling for names that differ in their composition of accents alone (NFC and NFD)."""
    return unicodedata.normalize("NFC", name)


@dataclass
class LeftOut:
    """What was passed over in folders of pictures.

    Attributes:
        endings: how many files there are of each ending that is not read.
        hidden: how many hidden files and folders, and of `SYSTEM`.
        loose: how many files lie beside the class folders.
        empty: class folders without pictures.
    """

    endings: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    loose: int = 0
    empty: list[str] = field(default_factory=list)

    def passes(self, entry: os.DirEntry[str]) -> bool:
        """Whether an entry is hidden; counts it then."""
        hidden = entry.name.startswith(".") or entry.name in SYSTEM
        self.hidden += hidden
        return hidden

    def say(self, folder: Path) -> None:
        """Warn of what was left out below a folder, if anything was."""
        kinds = ", ".join(f"{ending} {n:,}" for ending, n in self.endings.most_common(5))
        said = [
            f"{self.endings.total():,} files that are no pictures by their ending ({kinds})"
            if self.endings
            else "",
            f"{self.hidden:,} hidden or left by an archive or system" if self.hidden else "",
            f"{self.loose:,} files beside the class folders" if self.loose else "",
            f"{len(self.empty):,} class folders without pictures ({', '.join(self.empty[:5])})"
            if self.empty
            else "",
        ]
        if any(said):
            warnings.warn(f"left out in {folder}: {'; '.join(filter(None, said))}", stacklevel=1)


def class_folders(folder: Path, left_out: LeftOut) -> tuple[str, ...]:
    """Names of the folders in a folder, in order, without hidden ones and those of `SYSTEM`."""
    names = []
    with explain_os_errors("read", folder), os.scandir(folder) as entries:
        for entry in entries:
            if left_out.passes(entry):
                continue
            _check_link(entry, str(folder))
            if entry.is_dir():
                names.append(entry.name)
            else:
                left_out.loose += 1
    spelled = Counter(map(same_name, names))
    if (twice := spelled.most_common(1)) and twice[0][1] > 1:
        raise CossError(
            f"{folder} has two class folders {twice[0][0]!r}, which differ in how accents are "
            "composed alone (NFC, NFD); put their pictures into one"
        )
    return in_order(names)


def pictures(folder: str, below: str, left_out: LeftOut) -> Iterator[tuple[str, int]]:
    """(path relative to `folder`, bytes) of every picture below folder/below, sorted by path.

    Raises:
        CossError: a link leads nowhere or to a folder that holds it; a picture is no regular file.
    """
    with os.scandir(os.path.join(folder, below)) as entries:
        found = sorted((e for e in entries if not left_out.passes(e)), key=lambda e: e.name)
    for entry in found:
        path = f"{below}/{entry.name}"
        _check_link(entry, os.path.join(folder, below))
        if entry.is_dir():
            yield from pictures(folder, path, left_out)
        elif entry.name.lower().endswith(ENDINGS):
            state = entry.stat()
            if not stat.S_ISREG(state.st_mode):
                raise CossError(
                    f"{entry.path} is {kind_of(state.st_mode)}, not a regular file; remove it"
                )
            yield path, state.st_size
        else:
            left_out.endings[os.path.splitext(entry.name)[1].lower() or "none"] += 1


def _check_link(entry: os.DirEntry[str], parent: str) -> None:
    if not entry.is_symlink():
        return
    broken_link(Path(entry.path))
    target = os.path.realpath(entry.path)
    inside = os.path.realpath(parent)
    if entry.is_dir() and os.path.commonpath([target, inside]) == target:
        raise CossError(
            f"{entry.path} is a link to {target}, which holds the link itself; remove it"
        )


def broken_link(path: Path) -> None:
    """Raise CossError if a path is a link that leads nowhere, or round in a circle."""
    if path.is_symlink() and not os.path.exists(path):
        raise CossError(
            f"{path} is a link to {os.readlink(path)}, which is not there; mend or remove it"
        )


def filled_classes(folder: Path) -> tuple[str, ...]:
    """The class folders that hold at least one picture, in order."""
    with explain_os_errors("read", folder):
        names = class_folders(folder, LeftOut())
        return tuple(name for name in names if _holds_picture(os.path.join(folder, name)))


def _holds_picture(folder: str) -> bool:
    """Whether a picture lies below a folder, which is not listed beyond the first."""
    ignored, below = LeftOut(), []
    with os.scandir(folder) as entries:
        for entry in entries:
            if ignored.passes(entry):
                continue
            _check_link(entry, folder)
            if entry.is_dir():
                below.append(entry.path)
            elif entry.name.lower().endswith(ENDINGS):
                return True
    return any(map(_holds_picture, below))


def check_every_class(
    classes: Sequence[str], present: Iterable[str], where: str, there: str
) -> None:
    """Raise CossError unless each class has pictures in a role, `where`; they come from `there`."""
    known = set(present)
    if absent := [name for name in classes if name not in known]:
        more = f" and {len(absent) - 1:,} more" if len(absent) > 1 else ""
        raise CossError(
            f"class {absent[0]!r}{more} of {there} has no pictures in {where}; each class needs "
            "some in every role: add them, or remove the class everywhere"
        )


def say_order(classes: Sequence[str], folder: Path) -> None:
    """Say how classes are numbered where this differs from the order of their names as text."""
    if list(classes) != sorted(classes):
        shown = [*classes[:12], "…", classes[-1]] if len(classes) > 13 else classes
        warnings.warn(
            f"classes of {folder} are numbered from 0 in the order of the numbers in their names: "
            f"{', '.join(shown)}",
            stacklevel=1,
        )
