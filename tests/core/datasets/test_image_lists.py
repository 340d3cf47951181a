"""Lists of pictures to measure on, by the ends of their paths."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.picture_files import CLASSES, one_line, write_pictures

from robustbench_coss.datasets.base import ImageSet, open_dataset
from robustbench_coss.datasets.image_list import listed, names_of
from robustbench_coss.errors import CossError


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    root = tmp_path_factory.mktemp("listed")
    for part in ("train", "val"):
        write_pictures(root / part, CLASSES, 3)
    (root / "val" / "cat" / "000.png").rename(root / "val" / "cat" / "only.png")
    return open_dataset("imagefolder", "test", size=16, root=root)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "list.txt"
    path.write_text(text, encoding="utf-8")
    return path


# In order: val/cat/{001.jpg,002.JPEG,only.png}, val/dog/{000.png,001.jpg,002.JPEG}, val/eel/….
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("val/dog/001.jpg\n", [4]),
        ("eel/000.png\ncat/002.JPEG\n", [1, 6]),
        ("only.png", [2]),
        ("# of a paper\n\n./only.png \r\nval/eel/002.JPEG\n", [2, 8]),
    ],
)
def test_pictures_are_named_by_the_ends_of_their_paths(
    images: ImageSet, tmp_path: Path, text: str, expected: list[int]
) -> None:
    assert listed(images, written(tmp_path, text)).tolist() == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["names no picture"]),
        ("# nothing\n", ["names no picture"]),
        (
            "cat/001.jpg\ncat/x.png\ny\nz\nw\n",
            ["4 names that are not there: cat/x.png, y, z and 1 more", "val/cat/001.jpg"],
        ),
        ("002.JPEG\n", ["1 names that several pictures have: 002.JPEG"]),
        ("only.png\nval/cat/only.png\n", ["val/cat/only.png twice"]),
        ("at/001.jpg\n", ["not there: at/001.jpg"]),  # an end of a path, not of a name
    ],
)
def test_what_a_list_has_wrong_is_one_line(
    images: ImageSet, tmp_path: Path, text: str, words: list[str]
) -> None:
    with pytest.raises(CossError) as error:
        listed(images, written(tmp_path, text))
    message = one_line(error)
    assert all(word in message for word in words), message


def test_images_in_arrays_have_no_names(tmp_path: Path) -> None:
    digits = open_dataset("parts", "test", size=32)
    with pytest.raises(CossError, match="lie in arrays, without names"):
        listed(digits, written(tmp_path, "x"))


def test_the_names_of_images_list_them(images: ImageSet, tmp_path: Path) -> None:
    path = written(tmp_path, names_of(images, [7, 2]))
    assert torch.equal(listed(images, path), torch.tensor([2, 7]))
