"""Files of ready-made corruptions that lie otherwise than expected, or are hostile."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from helpers.corruption_roots import array_set
from PIL import Image

from robustbench_coss.datasets.base import ImageSet, open_dataset
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.corruptions.published import open_ready_made
from robustbench_coss.evaluations.corruptions.reference import NAMES

STEMS = ("[000]", "a*b", "c?d", "plain")


@pytest.fixture
def test_set(tmp_path: Path) -> ImageSet:
    for part in ("train", "test"):
        for k, stem in enumerate(STEMS):
            place = tmp_path / part / f"k{k % 2}" / f"{stem}.JPEG"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (k, k, k)).save(place)
    return open_dataset("imagefolder", "test", size=32, root=tmp_path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Every picture's level says which it is; endings differ from picture to picture."""
    for n, name in enumerate(NAMES):
        for severity in range(1, 6):
            for k, stem in enumerate(STEMS):
                ending = ("png", "bmp", "PNG", "ppm")[(k + severity) % 4]
                place = tmp_path / "C" / name / str(severity) / f"k{k % 2}" / f"{stem}.{ending}"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), (10 * n + k, severity, 0)).save(place)
    return tmp_path / "C"


def test_names_with_signs_of_patterns_and_mixed_endings_are_paired(
    test_set: ImageSet, root: Path
) -> None:
    made = open_ready_made(root, test_set)
    for n, severity in ((0, 1), (5, 3), (18, 5)):
        found = made.images(NAMES[n], severity, [0, 1, 2, 3])
        for i in range(4):
            k = STEMS.index(test_set.path(i).stem)  # type: ignore[attr-defined]
            assert found[i, :, 0, 0].tolist() == [10 * n + k, severity, 0]


def test_two_pictures_of_one_name_are_refused(test_set: ImageSet, root: Path) -> None:
    twin = root / "fog/2/k0/[000].webp"
    Image.new("RGB", (32, 32)).save(twin)
    with pytest.raises(CossError, match=r"has two pictures named \[000\]"):
        open_ready_made(root, test_set).images("fog", 2, [0])


@pytest.mark.parametrize("kind", ["pipe", "device", "text"])
def test_pictures_that_are_none_are_named(kind: str, test_set: ImageSet, root: Path) -> None:
    path = next((root / "snow/1/k1").glob("plain.*"))
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text("x")
    with pytest.raises(CossError, match=r"not a regular file|cannot be read") as error:
        open_ready_made(root, test_set).images("snow", 1, [0, 1, 2, 3])
    assert str(path) in str(error.value)


def npy(header: str) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4611686018427387904, 8)}"),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (%s,)}" % ("9" * 400)),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}"),
        npy("{'descr': '<u8', 'fortran_order': False, 'shape': (1099511627776,)}"),
        npy("(" * 5_000),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
        npy("{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (0,)}"),
        npy("[]"),
        b"\x93NUMPY\x01\x00\xff\xff",
        b"",
        b"PK\x05\x06" + bytes(18),
    ],
)
def test_labels_whose_header_states_nonsense_are_one_line(content: bytes, tmp_path: Path) -> None:
    for name in NAMES:
        np.save(tmp_path / f"{name}.npy", np.zeros((20, 32, 32, 3), np.uint8))
    (tmp_path / "labels.npy").write_bytes(content)
    with pytest.raises(CossError, match=r"labels\.npy") as error:
        open_ready_made(tmp_path, array_set(32))
    assert "\n" not in str(error.value)
