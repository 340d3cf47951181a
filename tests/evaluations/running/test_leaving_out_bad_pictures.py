"""A damaged picture, wherever an evaluation reads it: what is said, and what is left out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.picture_files import write_pictures
from helpers.toy_suite import ToyEncoder
from torch import nn

from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.models.checkpoint import Checkpoint
from robustbench_coss.records.record import Record, read_record

pytestmark = pytest.mark.filterwarnings("ignore:.*test set:UserWarning")
TEST_SET = """
title: Drawings
about: Drawings.
trained_on: imagefolder
folders: [drawings]
layout: folders
classes: [cat, dog]
pictures: 6
paper: none
source: none
licence: none
checked: by eye
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set, a published test set `drawings` and other pictures, `noise`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    for seed, (part, count) in enumerate((("train", 9), ("val", 3), ("test", 8), ("drawings", 3))):
        write_pictures(folder / part, ("cat", "dog"), count, seed)
    write_pictures(folder, ("noise",), 5, 7)
    (folder / "drawings.yaml").write_text(TEST_SET)
    return folder


def measure(root: Path, suite: str = "shift", head: bool = True, **more: Any) -> Record:
    encoder = ToyEncoder(16)
    meta = {"arch": "toy-encoder", "width": 1.0, "size": 16, "dataset": "imagefolder"}
    torch.manual_seed(1)
    own = nn.Linear(encoder.dim, 2) if head else None
    toy = Checkpoint(encoder, "toy", None, "0" * 64, meta, own, 2 if head else None)
    asked = {
        "shift": {"sets": [str(root / "drawings.yaml")]},
        "ood": {"far": "noise", "scores": "energy"},
        "crop": {"areas": [0.5]},
    }
    request = Evaluation(
        suite,
        results=root.parent / "results",
        data_root=root,
        batch_size=4,
        device="cpu",
        options={suite: asked[suite]},
        **more,
    )
    ((path, _),) = evaluate_run(lambda: toy, request).items()
    return read_record(path)


def damage(root: Path, pattern: str) -> Path:
    """Cut a picture off: its header is whole."""
    path = sorted(root.glob(pattern))[1]
    path.write_bytes(path.read_bytes()[:60])
    return path


@pytest.mark.parametrize(
    ("suite", "pattern", "told"),
    [
        ("crop", "test/dog/*", {"test": 1}),
        ("crop", "train/dog/*", {"train": 1}),
        ("shift", "drawings/cat/*", {"drawings": 1}),
        ("ood", "noise/*", {"noise": 1}),
    ],
)
def test_a_damaged_picture_is_named_with_the_option_that_leaves_it_out_and_does(
    root: Path, suite: str, pattern: str, told: dict[str, int]
) -> None:
    head, path = not pattern.startswith("train"), damage(root, pattern)
    said = f"{path} cannot be read .*; copy it again or remove it, or run again with"
    with pytest.raises(CossError, match=f"{said} --skip-bad-images to leave such pictures out$"):
        measure(root, suite, head)
    record = measure(root, suite, head, skip_bad_images=True)
    assert record.dataset["unreadable"] == told
    (check,) = [c for c in record.checks if c.name == "all pictures can be read"]
    (name,) = told
    role = "" if name in ("drawings", "noise") else "the role "
    assert check.detail == f"left out since they cannot be read: 1 of {role}{name}"


def test_other_pictures_of_a_set_give_what_they_give_without_the_damaged_one(root: Path) -> None:
    path = damage(root, "drawings/cat/*")
    left_out = measure(root, skip_bad_images=True)
    path.unlink()
    removed = measure(root)
    assert left_out.key != removed.key
    for record in (left_out, removed):
        assert [o["n"] for o in record.dataset["others"] if o["name"] == "drawings"] == [5]
    cells = [c for r in (left_out, removed) for c in r.cells if c.condition == "drawings"]
    columns = [cell.outcomes["correct"] for cell in cells]
    assert np.array_equal(np.sort(columns[0]), np.sort(columns[1]))
    assert "unreadable" not in removed.dataset


def test_a_damaged_test_picture_is_missing_on_the_clean_side_of_a_shift_too(root: Path) -> None:
    (root / "drawings.yaml").write_text(
        TEST_SET.replace("[cat, dog]", "{cat: cat, dog: dog, cow: cow}")
    )
    write_pictures(root / "train", ("cow",), 9, 3)
    write_pictures(root / "test", ("cow",), 8, 3)
    write_pictures(root / "val", ("cow",), 3, 3)
    write_pictures(root / "drawings", ("cow",), 3, 3)
    damage(root, "test/dog/*")
    with pytest.raises(CossError, match="--skip-bad-images"):
        measure(root, head=False)
    record = measure(root, head=False, skip_bad_images=True)
    assert len(record.index) == 23
    assert record.dataset["unreadable"] == {"test": 1}


def test_a_picture_damaged_after_a_first_look_in_a_file_of_its_size_is_found_again(
    root: Path,
) -> None:
    measure(root, skip_bad_images=True)
    path = sorted(root.glob("drawings/cat/*"))[1]
    path.write_bytes(path.read_bytes()[:60].ljust(path.stat().st_size, b"\0"))
    with pytest.raises(CossError, match=re.escape("run again with --skip-bad-images")):
        measure(root, skip_bad_images=True, force=True)
    again = measure(root, skip_bad_images=True, force=True)
    assert again.dataset["unreadable"] == {"drawings": 1}


def test_a_set_without_a_picture_that_can_be_read_is_refused(root: Path) -> None:
    for path in root.glob("noise/*"):
        path.write_bytes(b"\x89PNG\r\n")
    with pytest.raises(CossError, match="none of the test pictures of 'noise' can be read"):
        measure(root, "ood", skip_bad_images=True)


def test_a_list_of_pictures_that_cannot_be_read_is_refused(root: Path) -> None:
    path = damage(root, "test/dog/*")
    names = root / "names.txt"
    names.write_text(f"{path.relative_to(root)}\n")
    with pytest.raises(CossError, match=re.escape(f"none of the pictures that {names} names can")):
        measure(root, "crop", image_list=names, skip_bad_images=True)
