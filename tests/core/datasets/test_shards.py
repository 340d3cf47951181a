"""Shards give the images of the folders that they were written from."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.picture_files import Rows, members
from helpers.simulate_shards import write_shards
from torch.utils.data import DataLoader

from robustbench_coss.datasets import shards as shard_files
from robustbench_coss.datasets.base import ROLES, open_dataset
from robustbench_coss.errors import CossError
from robustbench_coss.testing import check_images


@pytest.mark.parametrize(
    ("name", "roles"), [("imagefolder", ROLES), ("imagenet", ("train", "test"))]
)
def test_shards_give_the_images_of_the_folders_they_were_written_from(
    name: str, roles: tuple[str, ...], pictures: Path, shards: Path
) -> None:
    for role in roles:
        ours = open_dataset(name, role, size=32, root=shards)
        check_images(ours, name, role, 32)
        folders = open_dataset(name, role, size=32, root=pictures)
        assert torch.equal(ours.labels, folders.labels)
        every = range(len(folders))
        assert torch.equal(ours.images(every), folders.images(every))
        assert all(torch.equal(ours.raw(i), folders.raw(i)) for i in every)
        assert ours.classes == ("0", "1", "2")


def test_classes_of_shards_are_named_by_a_file(shards: Path) -> None:
    (shards / "classes.txt").write_text("\n".join(("gnu", "ape", "bee")))
    assert open_dataset("imagefolder", "test", root=shards).classes == ("gnu", "ape", "bee")
    for wrong in ("cat\ndog", "cat\ndog\ncat"):
        (shards / "classes.txt").write_text(wrong)
        with pytest.raises(CossError, match="2 different names for 3 classes"):
            open_dataset("imagefolder", "test", root=shards)


def test_the_fingerprint_of_shards_sees_labels_and_lengths_but_not_how_they_are_cut(
    pictures: Path, shards: Path, tmp_path: Path
) -> None:
    def fingerprint(folder: Path) -> str:
        return open_dataset("imagefolder", "train", root=folder).fingerprint

    write_shards(pictures, tmp_path / "large", per_shard=1000)
    assert fingerprint(tmp_path / "large") == fingerprint(shards)
    (pictures / "train/cat/003.png").rename(pictures / "train/dog/0025.png")
    write_shards(pictures, tmp_path / "label", per_shard=8)
    with (pictures / "train/cat/000.png").open("ab") as file:
        file.write(b"x")
    write_shards(pictures, tmp_path / "length", per_shard=8)
    found = [fingerprint(tmp_path / name) for name in ("shards", "label", "length")]
    assert len(set(found)) == 3


def test_a_shard_set_is_read_by_worker_processes(shards: Path) -> None:
    images = pickle.loads(pickle.dumps(open_dataset("imagefolder", "test", root=shards)))
    loader: Any = DataLoader(
        Rows(images), batch_size=3, num_workers=1, multiprocessing_context="fork"
    )
    assert torch.equal(torch.cat(list(loader)), images.images(range(6)))


def test_other_members_of_a_shard_are_passed_over(shards: Path, pictures: Path) -> None:
    data = (pictures / "test/cat/000.png").read_bytes()
    for path in shards.glob("test-*.tar"):
        path.unlink()
    extra = {"b__json": b"{}", "__DS_Store": b"x", "b__seg__png": b"x"}
    others = {"c__cls": b"0", "c__png": data, "d__cls": b"1", "d__png": data}
    members(shards / "test-0.tar", **extra, b__cls=b" 2\n", b__png=data, **others)
    images = open_dataset("imagefolder", "test", root=shards)
    assert images.labels.tolist() == [2, 0, 1]
    assert images.raw(0).shape[0] == 3


def test_folders_and_shards_together_are_refused(shards: Path, pictures: Path) -> None:
    (pictures / "test").rename(shards / "test")
    with pytest.raises(CossError, match="one of train and test and shards for the other"):
        open_dataset("imagefolder", "test", root=shards)


def test_the_index_of_large_shards_is_kept_and_made_again_after_a_change(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_files, "WORTH_KEEPING", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    scans: list[int] = []
    scan = shard_files._scan
    monkeypatch.setattr(shard_files, "_scan", lambda s: scans.append(len(s)) or scan(s))

    def opened() -> Any:
        shard_files._read_index.cache_clear()  # as in another process
        return open_dataset("imagefolder", "test", root=shards)

    first, second = opened(), opened()
    read = len(scans)
    assert read == 2  # those of train and those of test, once each
    assert second.fingerprint == first.fingerprint
    assert torch.equal(second.images(range(6)), first.images(range(6)))
    os.utime(next(shards.glob("test-*.tar")), ns=(1, 1))
    opened()
    assert len(scans) == read + 1
    for kept in (tmp_path / "cache").rglob("*.npz"):
        kept.write_bytes(kept.read_bytes()[:-40])
    assert opened().fingerprint == first.fingerprint
    assert len(scans) == read + 3
    for kept in (tmp_path / "cache").rglob("*.npz"):  # an array where there were several
        with kept.open("wb") as file:
            np.save(file, np.zeros(3))
    assert opened().fingerprint == first.fingerprint
    assert len(scans) == read + 5
