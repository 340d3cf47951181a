"""What of folders and shards of pictures becomes a class, in which order, and what is left out."""

from __future__ import annotations

import os
import tarfile
import unicodedata
import warnings
from pathlib import Path

import pytest
import torch
from helpers.picture_files import CLASSES, members, one_line, write_pictures

from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.datasets.listing import in_order
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.corruptions.published import open_ready_made
from robustbench_coss.evaluations.corruptions.reference import NAMES


def opened(root: Path, role: str = "test", name: str = "imagefolder"):  # type: ignore[no-untyped-def]
    return open_dataset(name, role, size=32, root=root)


def said(root: Path, role: str = "test") -> str:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        opened(root, role)
    return "\n".join(str(one.message) for one in found)


# ---- order ----


def test_numbers_in_names_are_sorted_by_their_value() -> None:
    assert in_order(map(str, range(12, -1, -1))) == tuple(map(str, range(13)))
    assert in_order(["class10", "class2", "b", "class1", "a"]) == (
        *("a", "b", "class1", "class2", "class10"),
    )
    assert in_order(["002", "10", "1"]) == ("1", "002", "10")
    wordnet = ["n02124075", "n01440764", "n15075141"]
    assert in_order(wordnet) == tuple(sorted(wordnet))


@pytest.fixture
def twelve(tmp_path: Path) -> Path:
    names = tuple(map(str, range(12)))
    for part in ("train", "test"):
        write_pictures(tmp_path / part, names, 2)
    return tmp_path


def test_a_classifier_by_number_is_right_about_folders_of_numbers(twelve: Path) -> None:
    images = opened(twelve)
    assert images.classes == tuple(map(str, range(12)))
    assert all(
        int(images.path(i).parent.name) == label for i, label in enumerate(images.labels.tolist())
    )


def test_the_order_of_numbered_classes_is_said(twelve: Path) -> None:
    assert "numbered from 0" in said(twelve)
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11" in said(twelve)


def test_numbered_test_pictures_are_paired_with_corrupted_ones_of_their_class(twelve: Path) -> None:
    images = opened(twelve)
    for name in NAMES:
        for severity in range(1, 6):
            for path in sorted((twelve / "test").glob("*/*")):
                place = twelve / "C" / name / str(severity) / path.parent.name / path.name
                place.parent.mkdir(parents=True, exist_ok=True)
                os.link(path, place)
    found = open_ready_made(twelve / "C", images).images("fog", 3, list(range(len(images))))
    alone = torch.stack(
        [open_ready_made(twelve / "C", images).images("fog", 3, [i])[0] for i in range(24)]
    )
    assert torch.equal(found, alone)
    assert len(torch.unique(found.flatten(1), dim=0)) == len(
        torch.unique(torch.stack([images.images([i])[0] for i in range(24)]).flatten(1), dim=0)
    )


# ---- what is no class ----


def test_folders_without_pictures_and_of_systems_are_no_classes(pictures: Path) -> None:
    for part in ("train", "val", "test"):
        (pictures / part / "empty" / "below").mkdir(parents=True)
        (pictures / part / "__MACOSX" / "cat").mkdir(parents=True)
        (pictures / part / "__MACOSX" / "cat" / "._x.png").write_bytes(b"x")
        (pictures / part / ".thumbnails").mkdir()
        (pictures / part / "raw").mkdir()
        (pictures / part / "raw" / "x.heic").write_bytes(b"x")
        (pictures / part / "README.txt").write_text("x")
        (pictures / part / "cat" / ".DS_Store").write_bytes(b"x")
    for role in ("train", "validation", "test"):
        assert opened(pictures, role).classes == CLASSES
    text = said(pictures)
    assert "1 files that are no pictures by their ending (.heic 1)" in text
    assert "3 hidden or left by an archive or system" in text
    assert "1 files beside the class folders" in text
    assert "2 class folders without pictures (empty, raw)" in text


def test_nothing_is_said_of_folders_of_pictures_alone(pictures: Path) -> None:
    assert said(pictures) == ""


@pytest.mark.parametrize("role", ["train", "test", "validation"])
@pytest.mark.parametrize("gone", [False, True])
def test_a_class_without_pictures_in_one_role_is_an_error(
    role: str, gone: bool, pictures: Path
) -> None:
    part = {"validation": "val"}.get(role, role)
    for path in (pictures / part / "dog").iterdir():
        path.unlink()
    if gone:
        (pictures / part / "dog").rmdir()
    with pytest.raises(CossError, match="dog") as error:
        opened(pictures, "test" if role == "train" else role)
    assert "pictures" in one_line(error)


@pytest.mark.parametrize("ending", ["jfif", "JPE", "gif", "pnm"])
def test_pictures_of_rarer_endings_are_read(ending: str, pictures: Path) -> None:
    source = pictures / "test/cat/001.jpg"
    (pictures / f"test/cat/x.{ending}").write_bytes(source.read_bytes())
    images = opened(pictures)
    assert len(images) == 7
    index = [images.path(i).name for i in range(7)].index(f"x.{ending}")
    assert torch.equal(images.raw(index), images.raw(1))


# ---- links and names ----


@pytest.mark.parametrize("target", ["..", ".", "../..", "/"])
def test_a_link_to_a_folder_above_is_named(target: str, pictures: Path) -> None:
    (pictures / "test/cat/again").symlink_to(target)
    with pytest.raises(CossError, match="holds the link itself") as error:
        opened(pictures)
    assert "test/cat/again" in one_line(error)


@pytest.mark.parametrize("place", ["test/cat/x.png", "test/gnu", "train/cat/x", "test", "train"])
def test_a_broken_link_is_named_with_its_target(place: str, pictures: Path) -> None:
    if (pictures / place).exists():
        (pictures / place).rename(pictures / "moved")
        if place == "test":
            (pictures / "val").rename(pictures / "unused")
    (pictures / place).symlink_to("/nowhere/at/all")
    with pytest.raises(CossError, match="/nowhere/at/all, which is not there") as error:
        opened(pictures, "train" if place == "train/cat/x" else "test")
    assert place in one_line(error)


def test_links_to_class_folders_and_pictures_elsewhere_are_followed(
    pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = opened(pictures).images(range(6))
    away = tmp_path_factory.mktemp("away")
    (pictures / "test/cat").rename(away / "cat")
    (pictures / "test/cat").symlink_to(away / "cat")
    dog = pictures / "test/dog/000.png"
    dog.rename(away / "dog.png")
    dog.symlink_to(away / "dog.png")
    assert torch.equal(opened(pictures).images(range(6)), before)


def test_names_that_differ_in_the_composition_of_accents_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    write_pictures(tmp_path / "train", ("a", composed), 3)
    write_pictures(tmp_path / "test", ("a", decomposed), 2)
    images = opened(tmp_path)
    assert images.classes == ("a", composed)
    assert images.labels.tolist() == [0, 0, 1, 1]
    (tmp_path / "test" / composed).mkdir()
    with pytest.raises(CossError, match="NFC, NFD"):
        opened(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_a_picture_that_is_no_regular_file_is_named_and_not_waited_for(
    kind: str, pictures: Path
) -> None:
    path = pictures / "test/cat/x.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        import socket

        here = os.getcwd()
        os.chdir(path.parent)  # the path of a socket is short
        try:
            socket.socket(socket.AF_UNIX).bind(path.name)
        finally:
            os.chdir(here)
    with pytest.raises(CossError, match=f"a {'named ' * (kind == 'pipe')}{kind}, not a regular"):
        opened(pictures)


# ---- splits, roots ----


def test_a_share_that_rounds_to_no_validation_image_is_explained(tmp_path: Path) -> None:
    write_pictures(tmp_path / "train", CLASSES, 3)
    write_pictures(tmp_path / "test", CLASSES, 1)
    assert len(opened(tmp_path, "train")) == 9
    with pytest.raises(CossError, match="9 training images, and validation, 1/10 of them"):
        opened(tmp_path, "validation")


def test_a_folder_with_test_alone_is_told_that_train_is_missing(pictures: Path) -> None:
    (pictures / "train").rename(pictures / "unused")
    for role in ("train", "validation"):
        with pytest.raises(CossError, match="has test/ but no train/"):
            opened(pictures, role)
    assert len(opened(pictures)) == 6


def test_a_root_with_a_nul_is_one_line(tmp_path: Path) -> None:
    for name in ("imagefolder", "mnist", "parts", "tiny-imagenet"):
        with pytest.raises(CossError, match="holds a NUL"):
            open_dataset(name, "test", root=Path(f"{tmp_path}/a\0b"))


# ---- shards ----


def shard(path: Path, numbers: list[int], picture: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    members(
        path,
        **{
            f"{k}__{e}": d
            for k, n in enumerate(numbers)
            for e, d in (("png", picture), ("cls", str(n).encode()))
        },
    )


@pytest.mark.parametrize("numbers", [[0, 2], [1_000_000], [0, 1, 999_999]])
def test_a_class_number_that_no_training_picture_has_is_named(
    numbers: list[int], pictures: Path, tmp_path: Path
) -> None:
    picture = (pictures / "train/cat/000.png").read_bytes()
    shard(tmp_path / "s" / "train-0.tar", numbers, picture)
    shard(tmp_path / "s" / "test-0.tar", numbers, picture)
    with pytest.raises(CossError, match=r"class '[0-2]' .*has no pictures in"):
        opened(tmp_path / "s")


def test_a_list_of_a_million_classes_is_refused_at_once(pictures: Path, tmp_path: Path) -> None:
    picture = (pictures / "train/cat/000.png").read_bytes()
    for part in ("train", "test"):
        shard(tmp_path / "s" / f"{part}-0.tar", [0, 1], picture)
    (tmp_path / "s" / "classes.txt").write_text("\n".join(map(str, range(10**6))))
    with pytest.raises(CossError, match=r"class '2' and 999,997 more of 1,000,000"):
        opened(tmp_path / "s")


@pytest.mark.parametrize("name", ["train-0.tar", "classes.txt"])
@pytest.mark.parametrize("kind", ["pipe", "device", "broken"])
def test_shards_and_lists_that_are_no_regular_files_are_named(
    name: str, kind: str, pictures: Path, tmp_path: Path
) -> None:
    picture = (pictures / "train/cat/000.png").read_bytes()
    for part in ("train", "test"):
        shard(tmp_path / "s" / f"{part}-0.tar", [0, 1], picture)
    path = tmp_path / "s" / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"device": "/dev/zero", "broken": "/nowhere"}[kind])
    with pytest.raises(CossError, match=name) as error:
        opened(tmp_path / "s")
    assert ("which is not there" if kind == "broken" else "not a regular file") in one_line(error)


def test_a_name_of_a_gigabyte_in_a_shard_is_damage(pictures: Path, tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    (tmp_path / "s").mkdir()
    for part in ("train", "test"):
        (tmp_path / "s" / f"{part}-0.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(CossError, match=r"is damaged.*a header of 8,589,934,592 bytes"):
        opened(tmp_path / "s")
