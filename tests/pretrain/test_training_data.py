"""Training batches of pictures: folders and shards, workers, pictures that cannot be read."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.simulate_shards import write_shards
from PIL import Image

from robustbench_coss.datasets.base import ArraySet, open_dataset
from robustbench_coss.datasets.folder import FolderSet
from robustbench_coss.datasets.readable import Subset
from robustbench_coss.errors import CossError
from robustbench_coss.models.checkpoint import load_checkpoint
from robustbench_coss.pretrain.bad_images import (
    FILE_NAME,
    find_unreadable,
    leave_out_unreadable,
)
from robustbench_coss.pretrain.data import (
    TrainingBatch,
    explain_dead_workers,
    place,
    training_loader,
)
from robustbench_coss.pretrain.recipe import Recipe, build_recipe
from robustbench_coss.pretrain.run_folder import CHECKPOINT_NAME
from robustbench_coss.pretrain.train import pretrain


def recipe(**changes: Any) -> Recipe:
    values = {
        "method": "byol",
        "dataset": "imagefolder",
        "size": 32,
        "width": 1 / 16,
        "batch_size": 4,
        "epochs": 2,
        "workers": 0,
        "options": {"hidden": 16, "dim": 8},
    }
    return build_recipe(values | changes, "test")


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """18 training, 6 validation and 6 test pictures of two classes and of many shapes."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 9), ("val", 3), ("test", 3)):
        for label in ("cat", "dog"):
            (tmp_path / "data" / part / label).mkdir(parents=True)
            for k in range(count):
                width, height = (int(n) for n in rng.integers(34, 60, 2))
                pixels = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
                picture = Image.fromarray(pixels).resize((width, height))
                picture.save(tmp_path / "data" / part / label / f"{k}.{('png', 'jpg')[k % 2]}")
    return tmp_path / "data"


def batches(root: Path, local_crops: int = 2, **changes: Any) -> list[TrainingBatch]:
    images = open_dataset("imagefolder", "train", size=32, root=root)
    return list(training_loader(images, recipe(**changes), 2, local_crops))


def assert_equal(one: list[TrainingBatch], two: list[TrainingBatch]) -> None:
    assert len(one) == len(two) > 0
    for a, b in zip(one, two, strict=True):
        assert a.index == b.index
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.small, b.small)


def test_batches_of_pictures_hold_the_crops_of_all_views(folders: Path) -> None:
    first, *rest = batches(folders, local_crops=3)
    assert len(rest) == 18 // 4 - 1
    assert first.images.shape == (4, 2, 3, 32, 32)
    assert first.small is not None
    assert first.small.shape == (4, 3, 3, 16, 16)
    assert first.images.dtype == first.small.dtype == torch.uint8
    (without, *_) = batches(folders, local_crops=0)
    assert without.small is None
    assert torch.equal(without.images, first.images)


def test_shards_give_the_batches_of_the_folders_they_were_written_from(
    folders: Path, tmp_path: Path
) -> None:
    write_shards(folders, tmp_path / "shards", per_shard=7)
    assert len(list((tmp_path / "shards").glob("train-*.tar"))) == 3
    assert_equal(batches(folders), batches(tmp_path / "shards"))


def test_worker_processes_give_the_batches_of_none(folders: Path) -> None:
    assert_equal(batches(folders), batches(folders, workers=2))


def test_a_batch_moves_as_a_whole() -> None:
    pixels = torch.zeros(2, 2, 3, 8, 8, dtype=torch.uint8)
    moved = TrainingBatch(pixels, torch.zeros(2), [3, 4], pixels).to(torch.device("meta"))
    assert moved.small is not None
    assert {t.device.type for t in (moved.images, moved.labels, moved.small)} == {"meta"}
    assert moved.index == [3, 4]


# ---- sets in memory ----


def array_set() -> ArraySet:
    pixels = torch.arange(4 * 8 * 8, dtype=torch.uint8).view(4, 1, 8, 8)
    return ArraySet("x", "train", pixels, torch.arange(4), tuple("abcd"), 8)


def test_a_set_in_memory_stays_where_it_is_on_a_cpu() -> None:
    images = array_set()
    assert place(images, torch.device("cpu")) is images


@pytest.mark.parametrize(("free", "moves"), [(1023, False), (1024, True)])
def test_a_set_moves_to_the_gpu_up_to_a_quarter_of_its_free_memory(
    free: int, moves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = array_set()  # 256 bytes
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 1 << 40))
    # No GPU is needed to see that the set is asked to move.
    monkeypatch.setattr(ArraySet, "to", lambda self, device: str(device))
    assert place(images, torch.device("cuda")) == ("cuda" if moves else images)


def test_a_moved_set_gives_its_images_where_it_is() -> None:
    images = array_set()
    moved = images.to(torch.device("meta"))
    assert moved.images([1, 2]).device.type == "meta"
    assert moved.fingerprint == images.fingerprint
    assert images.images([1]).device.type == "cpu"


# ---- pictures that cannot be read ----


def damage(folders: Path, name: str = "cat/1.jpg", part: str = "train") -> Path:
    path = folders / part / name
    path.write_bytes(path.read_bytes()[:200])
    return path


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_stops_training_with_one_line_that_names_it(
    workers: int, folders: Path
) -> None:
    path = damage(folders)
    with pytest.raises(CossError) as error:
        batches(folders, workers=workers, batch_size=18)
    message = str(error.value)
    assert str(path) in message
    assert "--skip-bad-images" in message
    assert "\n" not in message


@pytest.mark.slow
def test_a_damaged_picture_in_a_shard_is_named_with_its_shard(
    folders: Path, tmp_path: Path
) -> None:
    damage(folders)
    write_shards(folders, tmp_path / "shards", per_shard=7)
    with pytest.raises(CossError, match=r"picture train/cat/1.jpg in \S*train-000000.tar cannot"):
        batches(tmp_path / "shards", batch_size=18)


def test_unreadable_pictures_are_found_and_named(folders: Path) -> None:
    bad = [damage(folders, "cat/1.jpg"), damage(folders, "dog/0.png")]
    found = find_unreadable(open_dataset("imagefolder", "train", root=folders))
    assert list(found) == [1, 9]  # sorted by path: nine cats, then the first dog
    for path, reason in zip(bad, found.values(), strict=True):
        assert str(path) in reason


def test_left_out_pictures_are_counted_listed_and_not_looked_for_again(
    folders: Path, tmp_path: Path
) -> None:
    path = damage(folders)
    whole = path.read_bytes()
    train, validation = (
        open_dataset("imagefolder", r, root=folders) for r in ("train", "validation")
    )
    with pytest.warns(UserWarning, match="1 of 18 train images cannot be read") as caught:
        (left, same), listing = leave_out_unreadable([train, validation], tmp_path / FILE_NAME)
    assert len(caught) == 1
    assert same is validation
    assert len(left) == 17
    assert left.fingerprint != train.fingerprint
    assert torch.equal(left.raw(1), train.raw(2))
    assert torch.equal(left.labels, train.labels[[i for i in range(18) if i != 1]])
    assert str(path) in json.loads(listing)["train"]["unreadable"]["1"]

    # Resumed after the picture was repaired (to a file of the same size, so that the data set is
    # the same by its fingerprint): the run goes on without it.
    (tmp_path / FILE_NAME).write_text(listing)
    path.write_bytes((folders / "train/cat/3.jpg").read_bytes()[: len(whole)].ljust(len(whole)))
    with pytest.warns(UserWarning, match="1 of 18"):
        (again, _), _ = leave_out_unreadable([train, validation], tmp_path / FILE_NAME)
    assert again.fingerprint == left.fingerprint


def test_a_damaged_list_of_unreadable_pictures_is_named(folders: Path, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("{")
    train = open_dataset("imagefolder", "train", root=folders)
    with pytest.raises(CossError, match=f"{FILE_NAME} is damaged"):
        leave_out_unreadable([train], tmp_path / FILE_NAME)


def test_a_set_without_any_readable_picture_is_refused(folders: Path, tmp_path: Path) -> None:
    for path in (folders / "val").glob("*/*"):
        path.write_text("no picture")
    images = open_dataset("imagefolder", "validation", root=folders)
    with pytest.raises(CossError, match="none of the validation images can be read"):
        leave_out_unreadable([images], tmp_path / FILE_NAME)


def test_sets_in_memory_are_not_looked_through(tmp_path: Path) -> None:
    images = array_set()
    (left,), listing = leave_out_unreadable([images], tmp_path / FILE_NAME)
    assert left is images
    assert json.loads(listing) == {}


@pytest.mark.slow
def test_a_run_that_leaves_a_picture_out_is_one_that_never_had_it(
    folders: Path, tmp_path: Path, small_bank: None
) -> None:
    path = damage(folders)
    out = tmp_path / "with"
    with pytest.raises(CossError, match="--skip-bad-images"):
        pretrain(recipe(batch_size=18), out, data_root=folders)
    with pytest.warns(UserWarning, match="left out"):
        one = pretrain(recipe(), tmp_path / "skip", data_root=folders, skip_bad_images=True)
    path.unlink()
    two = pretrain(recipe(), tmp_path / "never", data_root=folders)
    states = [load_checkpoint(file).encoder.state_dict() for file in (one, two)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    metadata = load_checkpoint(one).metadata
    assert metadata["training"]["images"] == 17
    assert (tmp_path / "skip" / FILE_NAME).is_file()
    assert not (tmp_path / "never" / FILE_NAME).exists()


def test_a_subset_gives_the_images_of_the_kept_indices() -> None:
    images = array_set()
    some = Subset(images, torch.tensor([3, 1]))
    assert torch.equal(some.images([0, 1]), images.images([3, 1]))
    assert torch.equal(some.raw(0), images.raw(3))
    assert some.labels.tolist() == [3, 1]


# ---- workers that die ----


@pytest.mark.slow
def test_a_killed_worker_is_one_line_and_the_run_goes_on_from_its_checkpoint(
    folders: Path, tmp_path: Path, small_bank: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, read, calls = os.getpid(), FolderSet.raw, []

    def dies_in_the_second_epoch(self: FolderSet, index: int) -> torch.Tensor:
        calls.append(index)
        if os.getpid() != parent and len(calls) > 18 + 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, index)

    out, wanted = tmp_path / "run", recipe(workers=1, epochs=3)
    with monkeypatch.context() as patch:
        patch.setattr(FolderSet, "raw", dies_in_the_second_epoch)
        with pytest.raises(CossError) as error:
            pretrain(wanted, out, data_root=folders)
    message = str(error.value)
    assert message.startswith("a process that decodes pictures died (")
    assert "--set workers=0" in message
    assert "\n" not in message
    assert (out / CHECKPOINT_NAME).is_file()
    fewer = recipe(workers=0, epochs=3)
    resumed = pretrain(fewer, out, data_root=folders, resume=True)
    undisturbed = pretrain(fewer, tmp_path / "other", data_root=folders)
    states = [load_checkpoint(file).encoder.state_dict() for file in (resumed, undisturbed)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(
    "said",
    [
        "DataLoader worker (pid 12) is killed by signal: Killed. ",
        "DataLoader worker (pid(s) 12, 13) exited unexpectedly",
        "DataLoader worker (pid 12) exited unexpectedly with exit code 1. Details are lost due to "
        "multiprocessing. Rerunning with num_workers=0 may give better error trace.",
    ],
)
def test_what_pytorch_says_of_dead_workers_becomes_one_line(said: str) -> None:
    died = r"died \((is killed|exited unexp).*workers=2"
    with pytest.raises(CossError, match=died) as error, explain_dead_workers(4):
        raise RuntimeError(said)
    assert "\n" not in str(error.value)


def test_other_runtime_errors_are_not_explained_away() -> None:
    with pytest.raises(RuntimeError, match="something else"), explain_dead_workers(2):
        raise RuntimeError("something else")
