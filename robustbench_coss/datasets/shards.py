"""Pictures in tar shards, WebDataset's layout: a few large files instead of millions of small ones.

A shard holds, one after the other, the members of its samples: `KEY.jpg` (or another picture) and
`KEY.cls`, the number of its class in ASCII; other members are passed over. A key ends at the first
dot of a member's base name. Only local, uncompressed shards: pictures are read by their offset, in
any order, where the library `webdataset` (1.0) streams shards from start to end. Where each picture
lies is kept in the user's cache, as reading the headers of ImageNet's members takes minutes.
"""

from __future__ import annotations

import io
import os
import posixpath
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_coss.datasets.arrays import read_array
from robustbench_coss.datasets.pictures import ENDINGS, MOST_BYTES, PictureSet
from robustbench_coss.errors import CossError, explain_os_errors, one_line
from robustbench_coss.files import cache_folder, sha256_of, write_atomically
from robustbench_coss.reading import check_regular, open_regular, read_text

LARGEST_CLASS = 1_000_000  # a label beyond it is a mistake, not a class
MOST_NAMES = 64 << 20  # bytes of classes.txt
WORTH_KEEPING = 10_000  # pictures: their headers take a second or two to read
_BLOCK = 512  # bytes; everything in a tar archive starts at a multiple of it
# What tarfile raises, besides its own errors, for headers of nonsense.
_DAMAGE = (
    *(tarfile.TarError, ValueError, ArithmeticError, LookupError),
    *(RecursionError, MemoryError),
)
MOST_NAME = 1 << 20  # bytes of the headers that hold a long name or attributes


@dataclass(frozen=True)
class Member:
    """A file in a tar archive: its name, and where its bytes start and how many there are.

    `refused` says of what is not stored as a plain file what it is instead.
    """

    name: str
    offset: int
    length: int
    refused: str = ""


@dataclass(frozen=True)
class ShardIndex:
    """Where the pictures of some shards are, in order of shard and member.

    Attributes:
        shards: the tar files.
        shard: [N] int32 which of them a picture is in.
        offset, length: [N] int64 of its bytes in there.
        names: [N] bytes, names of the members.
        labels: [N] int64.
    """

    shards: tuple[Path, ...]
    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    names: NDArray[np.bytes_]
    labels: NDArray[np.int64]

    def take(self, kept: NDArray[np.int64]) -> ShardIndex:
        """The index of some of the pictures."""
        return ShardIndex(self.shards, *(getattr(self, column)[kept] for column in COLUMNS))


COLUMNS = ("shard", "offset", "length", "names", "labels")  # what an index has for each picture


class ShardSet(PictureSet):
    """An `ImageSet` of pictures in shards, read lazily; can be pickled for data loader workers.

    The fingerprint covers the names, lengths and labels of the pictures in their order and the
    class names. It does not cover the pixels, nor how pictures are spread over shards.
    """

    def __init__(
        self, name: str, role: str, index: ShardIndex, classes: tuple[str, ...], size: int
    ) -> None:
        self.name, self.role, self.classes, self.size = name, role, classes, size
        self.index, self.labels = index, torch.from_numpy(index.labels)
        listing = b"\0".join(
            [*index.names.tolist(), index.length.astype("<i8").tobytes(), index.labels.tobytes()]
        )
        self.fingerprint = sha256_of("\0".join(classes).encode() + listing)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def paths(self) -> NDArray[np.bytes_]:
        """[N] bytes, names of the members."""
        return self.index.names

    def read(self, index: int, most: int | None = None) -> tuple[str, bytes]:
        """Shard and member of a picture, and its bytes."""
        shard = self.index.shards[self.index.shard[index]]
        with open_regular(shard, "open") as file, explain_os_errors("open", shard):
            file.seek(int(self.index.offset[index]))
            data = file.read(min(int(self.index.length[index]), most or MOST_BYTES + 1))
        return f"{os.fsdecode(bytes(self.index.names[index]))} in {shard}", data


def find_shards(folder: Path, part: str) -> tuple[Path, ...]:
    """The shards `part-*.tar` of a folder, sorted by name."""
    return tuple(sorted(folder.glob(f"{part}-*.tar")))


def read_index(shards: tuple[Path, ...]) -> ShardIndex:
    """Index all pictures of some shards: reads every member's header and class number.

    Raises:
        CossError: a shard is damaged or compressed; a picture has no class number or a wrong one,
            or shares its key with another picture; there are no pictures.
    """
    states = []
    for path in shards:
        check_regular(path)
        states.append(path.stat())
    return _read_index(shards, tuple((state.st_size, state.st_mtime_ns) for state in states))


@lru_cache(maxsize=4)  # several roles are opened from the same shards
def _read_index(shards: tuple[Path, ...], states: tuple[tuple[int, int], ...]) -> ShardIndex:
    """The index of shards with these sizes and times of change, from the cache if it is there."""
    place = cache_folder() / "shards" / f"{sha256_of([str(p.absolute()) for p in shards])}.npz"
    with suppress(CossError):  # not there, or not whole
        if np.array_equal(read_array(place, "states"), states):
            return ShardIndex(shards, *(read_array(place, column) for column in COLUMNS))
    index = _scan(shards)
    if len(index.labels) < WORTH_KEEPING:
        return index
    buffer = io.BytesIO()
    columns = {column: getattr(index, column) for column in COLUMNS}
    np.savez(buffer, states=np.array(states, np.int64), **columns)
    with suppress(CossError):  # without a cache, the next process reads the headers again
        write_atomically(place, buffer.getvalue())
    return index


def _scan(shards: tuple[Path, ...]) -> ShardIndex:
    shard: list[int] = []
    members: list[Member] = []
    labels: list[int] = []
    for number, path in enumerate(shards):
        pictures, classes = _samples(path)
        if lost := sorted(set(pictures) - set(classes)):
            raise CossError(
                f"{pictures[lost[0]].name} in {path} has no class number; "
                f"write {lost[0]}.cls beside it"
            )
        shard += [number] * len(pictures)
        members += pictures.values()
        labels += [classes[key] for key in pictures]
    if not members:
        raise CossError(
            f"{shards[0]} and the shards beside it hold no pictures ({', '.join(ENDINGS)}); "
            "check --data-root"
        )
    return ShardIndex(
        shards,
        np.array(shard, np.int32),
        np.array([m.offset for m in members], np.int64),
        np.array([m.length for m in members], np.int64),
        np.array([m.name.encode(errors="surrogateescape") for m in members]),
        np.array(labels, np.int64),
    )


def _samples(path: Path) -> tuple[dict[str, Member], dict[str, int]]:
    """The pictures and the class numbers of a shard, by key."""
    pictures: dict[str, Member] = {}
    classes: dict[str, int] = {}
    with explain_os_errors("read", path), BufferedReader(open_regular(path)) as file:
        try:
            for member in tar_members(file):
                _note(file, member, path, pictures, classes)
        except _DAMAGE as error:
            reason = one_line(error)
            raise CossError(
                f"shard {path} is damaged, compressed or not a tar file ({reason}); "
                "copy or write it again, as plain tar"
            ) from error
    return pictures, classes


def _note(
    file: BinaryIO,
    member: Member,
    path: Path,
    pictures: dict[str, Member],
    classes: dict[str, int],
) -> None:
    """Enter a member into the pictures or class numbers of its shard, by key."""
    folder, base = posixpath.split(member.name)
    stem, dot, ending = base.partition(".")
    key = posixpath.join(folder, stem)
    is_picture = dot + ending.lower() in ENDINGS
    if not stem or not (is_picture or ending == "cls"):
        return  # hidden, or something else
    if member.refused:
        raise CossError(
            f"{member.name} in {path} is {member.refused}; write the shard again with plain files"
        )
    if is_picture:
        if key in pictures:
            raise CossError(f"{path} has two pictures with the key {key}; give each its own")
        pictures[key] = member
        return
    file.seek(member.offset)
    text = file.read(min(member.length, 32)).strip()
    if not text.isdigit() or int(text) > LARGEST_CLASS:
        raise CossError(
            f"{member.name} in {path} holds {text.decode(errors='replace')!r}, not the number "
            f"of a class; write whole numbers from 0 to at most {LARGEST_CLASS}"
        )
    classes[key] = int(text)


class _Header(tarfile.TarInfo):
    """A member's header; one that states more bytes for a name than any has is damaged."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.type in _NAMES and not 0 <= self.size <= MOST_NAME:
            raise ValueError(f"a header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


_NAMES = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)


def tar_members(file: BinaryIO) -> Iterator[Member]:
    """The members of a tar archive in their order; between two, the file may be moved.

    A hard link has the bytes of the file that it names, which comes before it in an archive.

    Raises:
        ValueError, tarfile.TarError and others of `_DAMAGE`: no plain tar archive, damaged, or cut
            off before its end mark.
    """
    files: dict[str, tuple[int, int]] = {}
    with tarfile.open(
        fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape", tarinfo=_Header
    ) as archive:
        for info in archive:
            # Python before 3.11.14 goes back from here, for ever.
            if info.size < 0 or archive.offset <= info.offset:
                raise ValueError(f"{info.name} has a size of {info.size}")
            name = posixpath.normpath(info.name)
            if info.isreg() and not info.issparse():
                files[name] = (info.offset_data, info.size)
            if info.islnk() and (target := posixpath.normpath(info.linkname)) in files:
                files[name] = files[target]
            if name in files:
                yield Member(info.name, *files[name])
            else:
                yield Member(info.name, 0, 0, refused=_kind(info))
            del archive.members[:]  # type: ignore[attr-defined]  # a kilobyte each, not needed again
        # At a header that it cannot read, tarfile ends as at the mark, a block of zeros.
        file.seek(archive.offset)
        mark = file.read(_BLOCK)
    if len(mark) < _BLOCK:
        raise ValueError("it is cut off")
    if any(mark):
        raise ValueError(f"no header at byte {archive.offset}")


def _kind(info: tarfile.TarInfo) -> str:
    if info.islnk():
        return f"a hard link to {info.linkname}, which is not before it"
    if info.issym():
        return f"a symbolic link to {info.linkname}"
    return "stored as a sparse file" if info.issparse() else "not a file"


def class_names(folder: Path, count: int) -> tuple[str, ...]:
    """Names of `count` classes: the lines of `classes.txt`, else the numbers themselves.

    Raises:
        CossError: the file lists fewer names than classes occur, or one twice.
    """
    path = folder / "classes.txt"
    if not os.path.lexists(path):
        return tuple(str(k) for k in range(count))
    names = tuple(line.strip() for line in read_text(path, MOST_NAMES).splitlines())
    while names and not names[-1]:
        names = names[:-1]
    if len(names) < count or len(set(names)) < len(names):
        raise CossError(
            f"{path} must list each class once, one on a line, in the order of their numbers: "
            f"{len(set(names))} different names for {count} classes"
        )
    return names
