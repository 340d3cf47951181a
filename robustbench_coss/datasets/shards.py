"""Pictures in tar shards, WebDataset's layout: a few large files instead of millions of small ones.

A shard holds, one after the other, the members of its samples: `KEY.jpg` (or another picture) and
`KEY.cls`, the number of its class in ASCII; other members are passed over. A key ends at the first
dot of a member's base name. Only local, uncompressed shards: pictures are read by their offset, in
any order, where the library `webdataset` (1.0) streams shards from start to end. Headers are parsed
here: the standard library's `tarfile` takes minutes for the members of ImageNet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_coss.datasets.pictures import ENDINGS, PictureSet
from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.files import sha256_of

LARGEST_CLASS = 1_000_000  # a label beyond it is a mistake, not a class
_BLOCK = 512  # bytes; everything in a tar archive starts at a multiple of it


@dataclass(frozen=True)
class Member:
    """A file in a tar archive: its name, and where its bytes start and how many there are."""

    name: str
    offset: int
    length: int


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
        return ShardIndex(
            self.shards,
            self.shard[kept],
            self.offset[kept],
            self.length[kept],
            self.names[kept],
            self.labels[kept],
        )


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

    def read(self, index: int) -> tuple[str, bytes]:
        """Shard and member of a picture, and its bytes."""
        shard = self.index.shards[self.index.shard[index]]
        with explain_os_errors("open", shard), shard.open("rb", buffering=0) as file:
            file.seek(int(self.index.offset[index]))
            data = file.read(int(self.index.length[index]))
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
    states = [path.stat() for path in shards]
    return _read_index(shards, tuple((state.st_size, state.st_mtime_ns) for state in states))


@lru_cache(maxsize=4)  # several roles are opened from the same shards
def _read_index(shards: tuple[Path, ...], states: tuple[tuple[int, int], ...]) -> ShardIndex:
    shard: list[int] = []
    offset: list[int] = []
    length: list[int] = []
    names: list[bytes] = []
    labels: list[int] = []
    for number, path in enumerate(shards):
        pictures: dict[str, Member] = {}
        classes: dict[str, int] = {}
        with explain_os_errors("read", path), path.open("rb") as file:
            try:
                for member in tar_members(file):
                    _note(file, member, path, pictures, classes)
            except ValueError as error:
                raise CossError(
                    f"shard {path} is damaged, compressed or not a tar file ({error}); "
                    "copy or write it again, as plain tar"
                ) from error
        if lost := sorted(set(pictures) - set(classes)):
            raise CossError(
                f"{pictures[lost[0]].name} in {path} has no class number; "
                f"write {lost[0]}.cls beside it"
            )
        for key, member in pictures.items():
            shard.append(number)
            offset.append(member.offset)
            length.append(member.length)
            names.append(os.fsencode(member.name))
            labels.append(classes[key])
    if not names:
        raise CossError(
            f"{shards[0]} and the shards beside it hold no pictures ({', '.join(ENDINGS)}); "
            "check --data-root"
        )
    return ShardIndex(
        shards,
        np.array(shard, np.int32),
        np.array(offset, np.int64),
        np.array(length, np.int64),
        np.array(names),
        np.array(labels, np.int64),
    )


def _note(
    file: BinaryIO,
    member: Member,
    path: Path,
    pictures: dict[str, Member],
    classes: dict[str, int],
) -> None:
    """Enter a member into the pictures or class numbers of its shard, by key."""
    folder, base = os.path.split(member.name)
    stem, dot, ending = base.partition(".")
    key = os.path.join(folder, stem)
    if not stem:
        return  # hidden
    if dot + ending.lower() in ENDINGS:
        if key in pictures:
            raise CossError(f"{path} has two pictures with the key {key}; give each its own")
        pictures[key] = member
    elif ending == "cls":
        file.seek(member.offset)
        text = file.read(min(member.length, 32)).strip()
        if not text.isdigit() or int(text) > LARGEST_CLASS:
            raise CossError(
                f"{member.name} in {path} holds {text.decode(errors='replace')!r}, not the number "
                "of a class; write whole numbers from 0"
            )
        classes[key] = int(text)


def tar_members(file: BinaryIO) -> Iterator[Member]:
    """The regular files of a tar archive in their order; between two, the file may be moved.

    Formats: ustar, with long names and large sizes as in POSIX.1-2001 (pax) and GNU tar.

    Raises:
        ValueError: no tar archive, damaged, or cut off before its end mark.
    """
    end = file.seek(0, os.SEEK_END)
    position = 0
    told: dict[bytes, bytes] = {}  # what extended headers say about the next member
    while True:
        file.seek(position)
        header = file.read(_BLOCK)
        if len(header) < _BLOCK:
            raise ValueError("it is cut off")
        if header == bytes(_BLOCK):
            return
        # The checksum is that of the header with eight spaces in place of the checksum.
        if sum(header) - sum(header[148:156]) + 8 * ord(" ") != _number(header[148:156]):
            raise ValueError(f"no header at byte {position}")
        kind, start = header[156:157], position + _BLOCK
        length = int(told.get(b"size") or _number(header[124:136]))
        position = start + -(-length // _BLOCK) * _BLOCK
        if position > end:
            raise ValueError("it is cut off")
        if kind == b"x":
            told |= _pax_records(file.read(length))
        elif kind == b"L":
            told[b"path"] = file.read(length).rstrip(b"\0")
        else:
            if kind in (b"0", b"\0"):
                name = told.get(b"path") or _ustar_name(header)
                yield Member(os.fsdecode(name), start, length)
            told = {}


def _number(field: bytes) -> int:
    """A number of a header: octal digits, or (GNU) big-endian after a first byte of 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def _ustar_name(header: bytes) -> bytes:
    name, prefix = header[:100].rstrip(b"\0"), header[345:500].rstrip(b"\0")
    # GNU tar, whose magic ends in a space, keeps times where ustar has the prefix.
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """Records `LENGTH KEY=VALUE\\n`, where LENGTH counts all of the record."""
    records = {}
    while data:
        length = int(data[: data.index(b" ")])
        if not 0 < length <= len(data):
            raise ValueError("a damaged pax header")
        key, _, value = data[:length].partition(b" ")[2].partition(b"=")
        records[key] = value.removesuffix(b"\n")
        data = data[length:]
    return records


def class_names(folder: Path, count: int) -> tuple[str, ...]:
    """Names of `count` classes: the lines of `classes.txt`, else the numbers themselves.

    Raises:
        CossError: the file lists fewer names than classes occur, or one twice.
    """
    path = folder / "classes.txt"
    if not path.exists():
        return tuple(str(k) for k in range(count))
    with explain_os_errors("read", path):
        names = tuple(path.read_text(encoding="utf-8", errors="replace").splitlines())
    if len(names) < count or len(set(names)) < len(names):
        raise CossError(
            f"{path} must list each class once, one on a line, in the order of their numbers: "
            f"{len(set(names))} different names for {count} classes"
        )
    return names
