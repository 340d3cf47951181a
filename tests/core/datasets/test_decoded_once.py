"""Pictures are decoded once: in memory or in files, which several processes share."""

from __future__ import annotations

import signal
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.picture_files import CLASSES, one_line, write_pictures

from robustbench_coss.datasets import decoded
from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.datasets.decoded import Decoded
from robustbench_coss.datasets.folder import FolderSet
from robustbench_coss.datasets.readable import unreadable
from robustbench_coss.errors import CossError
from robustbench_coss.files import cache_folder

ORDER = [5, 0, 8, 3, 7, 1, 2, 6, 4]  # of nine pictures


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each picture was read."""
    counts: Counter[int] = Counter()
    before = FolderSet.read

    def counted(self: FolderSet, index: int, most: int | None = None) -> tuple[str, bytes]:
        counts[index] += 1
        return before(self, index, most)

    monkeypatch.setattr(FolderSet, "read", counted)
    return counts


@pytest.fixture
def images(tmp_path: Path, read: Counter[int], monkeypatch: pytest.MonkeyPatch) -> FolderSet:
    """Nine pictures; three make a block, and the cache is a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded, "BLOCK", 3)
    write_pictures(tmp_path / "train", CLASSES, 3)
    write_pictures(tmp_path / "val", CLASSES, 3, seed=1)
    found = open_dataset("imagefolder", "test", root=tmp_path, size=16)
    assert isinstance(found, FolderSet)
    read.clear()
    return found


@pytest.fixture
def filed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory for any picture, and a disk of 2 GB."""
    monkeypatch.setattr(decoded, "MOST_MEMORY", 0)
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda path: Disk)


class Disk:
    free = 2_000_000_000


def passes(store: Decoded, batch: int) -> list[torch.Tensor]:
    """What two passes in the usual order give."""
    batches = [ORDER[i : i + batch] for i in range(0, len(ORDER), batch)]
    return [torch.cat([store.images(chunk) for chunk in batches]) for _ in range(2)]


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 9])
def test_in_memory_each_picture_is_read_once_and_its_pixels_are_the_same(
    images: FolderSet, read: Counter[int], batch: int, tmp_path: Path
) -> None:
    expected = images.images(ORDER)
    read.clear()
    for found in passes(Decoded(images, ORDER), batch):
        assert torch.equal(found, expected)
    assert read == Counter(ORDER)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 9])
@pytest.mark.usefixtures("filed")
def test_in_files_each_picture_is_read_once_for_all_evaluations(
    images: FolderSet, read: Counter[int], batch: int
) -> None:
    expected = images.images(ORDER)
    read.clear()
    with pytest.warns(UserWarning, match=r"9 decoded pictures, 0\.0 GB, are kept in .*remove the"):
        store = Decoded(images, ORDER)
    for found in passes(store, batch):
        assert torch.equal(found, expected)
    assert not store._blocks  # nothing stays in memory
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        later = Decoded(images, ORDER)
    for found in passes(later, batch):
        assert torch.equal(found, expected)
    assert read == Counter(ORDER)


@pytest.mark.usefixtures("filed")
@pytest.mark.filterwarnings("ignore:9 decoded pictures")
def test_a_pass_that_jumps_holds_no_more_than_two_blocks(
    images: FolderSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, most = Decoded(images, ORDER), 0
    for index in [ORDER[i] for i in (0, 3, 6, 1, 4, 7, 2, 5, 8)]:
        assert torch.equal(store.images([index]), images.images([index]))
        most = max(most, len(store._blocks))
    assert most == decoded.OPEN


@pytest.mark.usefixtures("filed")
@pytest.mark.filterwarnings("ignore:9 decoded pictures")
def test_the_images_of_a_smaller_limit_are_not_decoded_again(
    images: FolderSet, read: Counter[int]
) -> None:
    passes(Decoded(images, ORDER), 3)
    read.clear()
    Decoded(images, ORDER[:6]).images(ORDER[:6])
    assert not read


@pytest.mark.usefixtures("filed")
@pytest.mark.filterwarnings("ignore:[39] decoded pictures")
@pytest.mark.parametrize("what", ["size", "version", "geometry", "data"])
def test_pixels_of_another_kind_are_not_looked_at(
    images: FolderSet, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes(Decoded(images, ORDER), 3)
    other = images
    if what == "size":
        other = open_dataset("imagefolder", "test", root=tmp_path, size=24)  # type: ignore[assignment]
    elif what == "version":
        monkeypatch.setattr(decoded, "VERSION", 99)
    elif what == "geometry":
        monkeypatch.setattr(images, "geometry", decoded.PictureSet.geometry.__class__(16))
    else:
        (other.path(0)).write_bytes((tmp_path / "train/cat/000.png").read_bytes())
        other = open_dataset("imagefolder", "test", root=tmp_path, size=16)  # type: ignore[assignment]
    assert torch.equal(Decoded(other, ORDER).images(ORDER), other.images(ORDER))
    assert len(list((tmp_path / "cache/robustbench-coss/decoded").iterdir())) == 2


@pytest.mark.usefixtures("filed")
@pytest.mark.filterwarnings("ignore:9 decoded pictures")
@pytest.mark.parametrize("damage", ["cut", "empty", "other", "gone", "text"])
def test_a_damaged_file_is_made_again(images: FolderSet, damage: str) -> None:
    store, expected = Decoded(images, ORDER), images.images(ORDER)
    passes(store, 3)
    assert store.folder is not None
    path = sorted(store.folder.glob("*.npy"))[1]
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "other":
        np.save(path, np.zeros((2, 3, 16, 16), dtype=np.uint8))
    else:
        path.write_bytes({"cut": whole[:-1], "empty": b"", "text": b"no array"}[damage])
    assert torch.equal(store.images(ORDER), expected)
    assert path.read_bytes() == whole


@pytest.mark.usefixtures("filed")
def test_a_disk_without_room_leaves_pictures_to_be_decoded_anew_and_says_so_once(
    images: FolderSet, read: Counter[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Disk, "free", 1_000_000)
    with pytest.warns(UserWarning, match=r"has 0\.0 GB free, and 1\.1 GB are needed.*anew") as said:
        store = Decoded(images, ORDER)
    for found in passes(store, 4):
        assert torch.equal(found, images.images(ORDER))
    assert len(said) == 1
    assert read == Counter(dict.fromkeys(ORDER, 4))
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("filed")
@pytest.mark.filterwarnings("ignore:9 decoded pictures")
def test_a_disk_that_fills_up_on_the_way_leaves_the_rest_to_be_decoded_anew(
    images: FolderSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, expected = Decoded(images, ORDER), images.images(ORDER)
    store.images(ORDER[:3])

    def full(path: Path, data: bytes) -> None:
        raise CossError("cannot write: No space left on device")

    monkeypatch.setattr(decoded, "write_atomically", full)
    with pytest.warns(UserWarning, match=r"cannot be kept \(.*No space left.*anew") as said:
        assert all(torch.equal(found, expected) for found in passes(store, 2))
    assert len(said) == 1
    assert not store._blocks


@pytest.mark.usefixtures("filed")
@pytest.mark.filterwarnings("ignore:9 decoded pictures")
def test_a_cache_that_cannot_be_written_stops_nothing(
    images: FolderSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    store, expected = Decoded(images, ORDER), images.images(ORDER)
    with pytest.warns(UserWarning, match="decoded pictures cannot be kept"):
        assert all(torch.equal(found, expected) for found in passes(store, 2))
    images.path(4).write_bytes(b"no picture")
    assert unreadable(images) == unreadable(images) == [4]


def test_a_picture_damaged_on_the_way_is_named_and_the_others_are_still_there(
    images: FolderSet, read: Counter[int]
) -> None:
    store = Decoded(images, ORDER)
    store.images(ORDER[:3])
    path = images.path(ORDER[4])
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CossError) as error:
        store.images(ORDER[3:6])
    assert str(path) in one_line(error)
    read.clear()
    store.images(ORDER[:3])
    assert not read


def test_threads_decode_what_one_would(images: FolderSet) -> None:
    images.workers = 1
    alone = images.images(ORDER)
    images.workers = 4
    assert torch.equal(images.images(ORDER), alone)
    path = images.path(ORDER[2])
    path.write_bytes(b"no picture")
    with pytest.raises(CossError) as error:
        images.images(ORDER)
    assert str(path) in one_line(error)


KILLED = """
import os, signal, sys
from pathlib import Path
from robustbench_coss.datasets import decoded
from robustbench_coss.datasets.base import open_dataset
decoded.BLOCK, decoded.MOST_MEMORY = 3, 0
images = open_dataset("imagefolder", "test", root=Path(sys.argv[1]), size=16)
order = [int(i) for i in sys.argv[2].split(",")]
replace, done = os.replace, []
def dies_at_the_second(*paths):
    if done:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(replace(*paths))
os.replace = dies_at_the_second
store = decoded.Decoded(images, order)
store.images(order)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("filed")
@pytest.mark.filterwarnings("ignore:9 decoded pictures")
def test_a_killed_writer_leaves_nothing_torn(
    images: FolderSet, tmp_path: Path, read: Counter[int]
) -> None:
    order = ",".join(map(str, ORDER))
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path), order]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    store = Decoded(images, ORDER)
    assert store.folder is not None
    assert len(list(store.folder.glob("*.npy"))) == 1
    assert all(torch.equal(found, images.images(ORDER)) for found in passes(store, 3))
    assert len(list(store.folder.iterdir())) == 3  # and the temporary file of the dead is gone


def test_a_cache_folder_that_is_not_absolute_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("relative", "", "./here"):  # by the XDG Base Directory Specification
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert cache_folder() == Path.home() / ".cache" / "robustbench-coss"
    monkeypatch.setenv("XDG_CACHE_HOME", "/absolute")
    assert cache_folder() == Path("/absolute/robustbench-coss")
