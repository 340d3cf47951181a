"""Pictures of an evaluation: decoded once, by any number of threads, with the same records."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.picture_files import write_pictures
from helpers.toy_suite import ToyEncoder
from torch import nn

from robustbench_coss.datasets import decoded
from robustbench_coss.datasets.folder import FolderSet
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes.linear import ProbeConfig
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.machine.executors import in_process
from robustbench_coss.models.checkpoint import Checkpoint
from robustbench_coss.records.commands import commands_of
from robustbench_coss.records.record import Record, read_record


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for seed, (part, count) in enumerate((("train", 9), ("val", 4), ("test", 8))):
        write_pictures(tmp_path / "data" / part, ("cat", "dog"), count, seed)
    return tmp_path / "data"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each picture was read whole, by its path."""
    counts: Counter[str] = Counter()
    before = FolderSet.read

    def counted(self: FolderSet, index: int, most: int | None = None) -> tuple[str, bytes]:
        if most is None:
            counts[str(self.path(index).relative_to(self.folder.parent))] += 1
        return before(self, index, most)

    monkeypatch.setattr(FolderSet, "read", counted)
    return counts


def model(head: bool = True) -> Checkpoint:
    encoder = ToyEncoder(16)
    meta = {"arch": "toy-encoder", "width": 1.0, "size": 16, "dataset": "imagefolder"}
    torch.manual_seed(1)
    own = nn.Linear(encoder.dim, 2) if head else None
    return Checkpoint(encoder, "toy", None, "0" * 64, meta, own, 2 if head else None)


def measure(pictures: Path, results: Path, head: bool = True, **more: Any) -> Record:
    executor = more.pop("executor", None)
    request = Evaluation(
        "crop",
        results=results,
        data_root=pictures,
        batch_size=5,
        device="cpu",
        probe=ProbeConfig(),
        options={"crop": {"areas": [0.3, 0.5]}},
        **more,
    )
    ((path, _),) = evaluate_run(lambda: model(head), request, executor=executor).items()
    return read_record(path)


def content(record: Record, results: Path) -> str:
    """A record's file but for its times."""
    (path,) = results.glob("records/*/*/crop.json")
    lines = path.read_text().splitlines()
    kept = (re.sub(r'"wall_time_s":[^,}]*', "", line) for line in lines if '"created"' not in line)
    return "\n".join(kept)


def test_threads_and_where_pixels_are_kept_change_no_byte_of_a_record(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for name, workers, memory in (
        ("one", 1, 1 << 30),
        ("four", 4, 1 << 30),
        ("filed", 4, 0),
        ("again", 1, 0),
    ):
        monkeypatch.setattr(decoded, "MOST_MEMORY", memory)
        results = tmp_path / name
        found[name] = content(measure(pictures, results, workers=workers), results)
        assert any((tmp_path / "cache").rglob("*.npy")) == (memory == 0)
    assert len(set(found.values())) == 1


def test_test_pictures_are_decoded_once_and_training_pictures_of_a_probe_too(
    pictures: Path, tmp_path: Path, read: Counter[str]
) -> None:
    record = measure(pictures, tmp_path / "r", head=False)
    assert len(record.cells) > 3
    assert len(read) == 16 + 18 + 8
    assert set(read.values()) == {1}  # of these suites none prepares with training pictures


def test_workers_elsewhere_decode_on_one_thread(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    before = FolderSet.images

    def noted(self: FolderSet, indices: list[int]) -> torch.Tensor:
        seen.add(self.workers)
        return before(self, indices)

    monkeypatch.setattr(FolderSet, "images", noted)
    threads = torch.get_num_threads()
    try:
        measure(pictures, tmp_path / "r", executor=in_process)
    finally:
        torch.set_num_threads(threads)
    assert 1 in seen  # the process that plans may use all cores
    assert seen <= {1, None}


def test_a_picture_damaged_in_the_middle_of_a_pass_is_named(pictures: Path, tmp_path: Path) -> None:
    path = sorted(pictures.glob("test/dog/*"))[3]
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(CossError, match=str(path)):
        measure(pictures, tmp_path / "r")


def damage(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:60])
    return path


@pytest.mark.parametrize("head", [True, False])
def test_pictures_that_cannot_be_read_are_left_out_counted_and_marked_if_asked_for(
    pictures: Path, tmp_path: Path, head: bool
) -> None:
    bad = [sorted(pictures.glob(p))[2] for p in ("test/dog/*", "train/cat/*", "train/dog/*")]
    for path in bad:
        damage(path)
    whole = measure(pictures, tmp_path / "r", head, skip_bad_images=True)
    assert whole.index.size == 15
    assert whole.dataset["n"] == 15
    assert whole.dataset["unreadable"] == {"test": 1, "train": 2}
    (check,) = [c for c in whole.checks if c.name == "all pictures can be read"]
    assert not check.passed
    assert (
        check.detail
        == "left out since they cannot be read: 2 of the role train, 1 of the role test"
    )
    assert "--skip-bad-images" in commands_of([whole])[-1]
    if not head:
        assert whole.model["probe"]["n_train"] == 16
    for path in bad:
        path.unlink()
    never = measure(pictures, tmp_path / "never", head)
    # Images are in another order, which is drawn for their number; undisturbed ones are the same.
    clean = [sorted(record.cells[0].outcomes["correct"].tolist()) for record in (whole, never)]
    assert clean[0] == clean[1]
    assert "unreadable" not in never.dataset
    assert whole.key != never.key


def test_with_all_pictures_whole_skipping_changes_nothing(
    pictures: Path, tmp_path: Path, read: Counter[str]
) -> None:
    plain = measure(pictures, tmp_path / "r")
    assert measure(pictures, tmp_path / "r", skip_bad_images=True).created == plain.created
    read.clear()
    measure(pictures, tmp_path / "s", skip_bad_images=True)
    assert max(read.values()) == 1  # what is unreadable is known by now


def test_without_a_readable_test_picture_nothing_is_measured(
    pictures: Path, tmp_path: Path
) -> None:
    for path in pictures.glob("test/*/*"):
        damage(path)
    with pytest.raises(CossError, match="none of the test pictures of 'imagefolder' can be read"):
        measure(pictures, tmp_path / "r", skip_bad_images=True)
