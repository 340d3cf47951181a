"""Shards that are damaged, or do not say what is in them."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tempfile
from pathlib import Path

import pytest
import torch
from helpers.picture_files import members, one_line, write_pictures
from helpers.simulate_shards import write_shards
from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.datasets.folder import IMAGEFOLDER
from robustbench_coss.datasets.shards import tar_members
from robustbench_coss.errors import CossError


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"a__png": b"x"}, "a.png in .* has no class number; write a.cls"),
        ({"a__png": b"x", "a__cls": b"cat"}, "a.cls in .* holds 'cat', not the number"),
        ({"a__png": b"x", "a__cls": b"-1"}, "holds '-1'"),
        ({"a__png": b"x", "a__cls": b"9" * 30}, "holds '9999"),
        ({"a__png": b"x", "a__jpg": b"x", "a__cls": b"0"}, "two pictures with the key a"),
        ({"a__txt": b"x"}, "hold no pictures"),
        ({"a__png": b"x", "a__cls": b"3"}, "hold class 3, which those of train do not"),
    ],
)
def test_shards_that_do_not_say_what_is_in_them_are_refused(
    kinds: dict[str, bytes], message: str, shards: Path
) -> None:
    for path in shards.glob("test-*.tar"):
        path.unlink()
    members(shards / "test-0.tar", **kinds)
    with pytest.raises(CossError, match=message) as error:
        open_dataset("imagefolder", "test", root=shards)
    one_line(error)


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1), st.sampled_from(["cut", "flip"]))
def test_a_damaged_shard_is_one_line_or_still_whole(share: float, damage: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_pictures(root / "train", ("a",), 10)
        write_pictures(root / "val", ("a",), 1)
        write_shards(root, root / "shards", per_shard=99)
        path = root / "shards/train-000000.tar"
        data = bytearray(path.read_bytes())
        used = max(m.offset + m.length for m in tar_members(io.BytesIO(data)))
        at = min(int(share * used), used - 1)
        if damage == "cut":
            del data[at:]
        else:
            data[at] ^= 0x55
        path.write_bytes(data)
        message = ""
        try:
            images = IMAGEFOLDER.open("train", 32, root / "shards", False)
        except CossError as error:
            message = str(error)
        if message:
            assert str(path) in message
            assert "\n" not in message
        else:  # the bytes of a picture, or of a name, were hit
            assert damage == "flip"
            assert len(images) <= 9


@pytest.mark.parametrize("damage", ["gzip", "text", "empty"])
def test_a_shard_that_is_no_plain_tar_is_named(damage: str, shards: Path) -> None:
    path = next(shards.glob("train-*.tar"))
    whole = path.read_bytes()
    gone = {"gzip": gzip.compress(whole, mtime=0), "text": b"shard" * 999, "empty": b""}
    path.write_bytes(gone[damage])
    with pytest.raises(CossError, match="compressed or not a tar file") as error:
        open_dataset("imagefolder", "train", root=shards)
    assert str(path) in one_line(error)


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 2000)), min_size=1, max_size=5))
def test_members_have_the_names_and_bytes_that_were_written(
    style: int, wanted: list[tuple[int, int]]
) -> None:
    """Names of up to 240 characters in folders: longer than the header's first field."""
    archive = io.BytesIO()
    written: list[tuple[str, bytes]] = []
    with tarfile.open(fileobj=archive, mode="w", format=style) as tar:
        tar.addfile(_special("häuser", tarfile.DIRTYPE))
        for number, (length, size) in enumerate(wanted):
            info = tarfile.TarInfo("/".join(["häuser", *["word"] * length, f"{number}.png"]))
            info.size, info.mtime = size, 1.5  # type: ignore[assignment]
            written.append((info.name, bytes([number]) * size))
            tar.addfile(info, io.BytesIO(written[-1][1]))
    whole = archive.getvalue()
    archive.seek(0)
    found = [m for m in tar_members(archive) if not m.refused]
    assert [(m.name, whole[m.offset : m.offset + m.length]) for m in found] == written


def _special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("count", [-512, -1, -(1 << 40)])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, b"Z"])
def test_a_member_of_negative_size_is_named_and_does_not_hang(
    count: int, kind: bytes, shards: Path
) -> None:
    path = next(shards.glob("train-*.tar"))
    wrong = _special("a.png", kind)
    wrong.size = count
    header = wrong.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(path.read_bytes()[: 4 * 512] + header + bytes(1024))
    with pytest.raises(CossError, match="damaged, compressed or not a tar file") as error:
        open_dataset("imagefolder", "train", root=shards)
    assert str(path) in one_line(error)


def test_a_shard_that_lost_its_end_at_a_border_of_members_is_damaged(shards: Path) -> None:
    path = next(shards.glob("train-*.tar"))
    with path.open("rb") as file:
        last = [m for m in tar_members(file) if not m.refused][-1]
    os.truncate(path, last.offset + -(-last.length // 512) * 512)
    with pytest.raises(CossError, match="it is cut off"):
        open_dataset("imagefolder", "train", root=shards)


def test_a_hard_link_in_a_shard_is_the_picture_that_it_names(shards: Path, pictures: Path) -> None:
    data = (pictures / "test/cat/000.png").read_bytes()
    for path in shards.glob("test-*.tar"):
        path.unlink()
    members(shards / "test-0.tar", z__png=data, z__cls=b"0", a__png=data, a__cls=b"1", b__cls=b"2")
    with tarfile.open(shards / "test-0.tar", "a") as tar:
        tar.addfile(_special("b.png", tarfile.LNKTYPE, "./a.png"))
    images = open_dataset("imagefolder", "test", root=shards)
    assert images.labels.tolist() == [0, 1, 2]
    assert torch.equal(images.raw(2), images.raw(1))


@pytest.mark.parametrize(
    ("kind", "target", "message"),
    [
        (tarfile.LNKTYPE, "c.png", "b.png in .* is a hard link to c.png, which is not before it"),
        (tarfile.SYMTYPE, "a.png", "b.png in .* is a symbolic link to a.png; write the shard"),
        (tarfile.FIFOTYPE, "", "b.png in .* is not a file"),
    ],
)
def test_pictures_that_are_no_files_are_refused_by_name(
    kind: bytes, target: str, message: str, shards: Path
) -> None:
    with tarfile.open(next(shards.glob("test-*.tar")), "a") as tar:
        tar.addfile(_special("b.png", kind, target))
    with pytest.raises(CossError, match=message) as error:
        open_dataset("imagefolder", "test", root=shards)
    one_line(error)
