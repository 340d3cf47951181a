"""Folders of pictures: roles, fingerprints, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.picture_files import CLASSES, Rows, one_line, write_pictures
from PIL import Image
from torch.utils.data import DataLoader

from robustbench_coss.datasets.base import ROLES, open_dataset
from robustbench_coss.datasets.folder import IMAGEFOLDER, IMAGENET
from robustbench_coss.errors import CossError
from robustbench_coss.testing import check_images


def lengths(name: str, root: Path) -> list[int]:
    return [len(open_dataset(name, role, root=root)) for role in ROLES]


def test_an_image_folder_with_three_folders_uses_each_for_its_role(pictures: Path) -> None:
    assert lengths("imagefolder", pictures) == [30, 9, 6]
    for role in ROLES:
        check_images(open_dataset("imagefolder", role, root=pictures), "imagefolder", role, 224)


def test_without_a_test_folder_val_is_the_test_set(pictures: Path) -> None:
    (pictures / "test").rename(pictures / "unused")
    assert lengths("imagefolder", pictures) == [27, 3, 9]


def test_without_a_val_folder_validation_is_held_out_of_train(pictures: Path) -> None:
    (pictures / "val").rename(pictures / "unused")
    assert lengths("imagefolder", pictures) == [27, 3, 6]
    train, held = (open_dataset("imagefolder", r, root=pictures) for r in ROLES[:2])
    paths = {s.path(i) for s in (train, held) for i in range(len(s))}  # type: ignore[attr-defined]
    assert paths == set((pictures / "train").glob("*/*"))


def test_validation_is_another_name_for_val(pictures: Path) -> None:
    (pictures / "val").rename(pictures / "validation")
    assert lengths("imagefolder", pictures) == [30, 9, 6]


@pytest.mark.parametrize("inside", ["", "imagenet"])
def test_imagenet_tests_on_val_and_holds_a_hundredth_of_train_out(
    inside: str, tmp_path: Path
) -> None:
    write_pictures(tmp_path / inside / "train", ("n02", "n01"), 100)
    write_pictures(tmp_path / inside / "val", ("n01", "n02"), 2, seed=1)
    (tmp_path / inside / "test").mkdir()  # the unlabelled test images do not matter
    assert lengths("imagenet", tmp_path) == [198, 2, 4]
    test = open_dataset("imagenet", "test", root=tmp_path)
    assert test.classes == ("n01", "n02")
    assert test.labels.tolist() == [0, 0, 1, 1]


def test_images_equal_torchvisions_usual_evaluation_transform(pictures: Path) -> None:
    from torchvision import transforms

    images: Any = open_dataset("imagefolder", "test", size=56, root=pictures)
    usual = transforms.Compose(
        [transforms.Resize(64), transforms.CenterCrop(56), transforms.PILToTensor()]
    )
    for index in range(len(images)):
        picture = Image.open(images.path(index)).convert("RGB")
        assert torch.equal(images.images([index])[0], usual(picture))
        assert torch.equal(images.raw(index), transforms.PILToTensor()(picture))


def test_grey_palette_and_transparent_pictures_become_rgb(pictures: Path) -> None:
    for k, mode in enumerate(("L", "P", "RGBA", "CMYK")):
        ending = "jpg" if mode == "CMYK" else "png"
        Image.new(mode, (9, 7)).save(pictures / f"test/cat/x{k}.{ending}")
    images = open_dataset("imagefolder", "test", root=pictures)
    assert len(images) == 6 + 4
    assert all(images.raw(i).shape[0] == 3 for i in range(len(images)))


def test_hidden_and_foreign_files_are_passed_over(pictures: Path) -> None:
    (pictures / "test/cat/._000.png").write_bytes(b"x")
    (pictures / "test/cat/notes.txt").write_text("x")
    (pictures / "test/.cache").mkdir()
    assert len(open_dataset("imagefolder", "test", root=pictures)) == 6


def test_the_fingerprint_of_a_folder_sees_files_added_renamed_or_resized(pictures: Path) -> None:
    def fingerprint() -> str:
        return open_dataset("imagefolder", "test", root=pictures).fingerprint

    first = fingerprint()
    assert fingerprint() == first
    seen = {first}
    path = pictures / "test/cat/000.png"
    path.rename(path.with_name("new.png"))
    seen.add(fingerprint())
    path.with_name("new.png").rename(path)
    assert fingerprint() == first
    path.write_bytes(path.read_bytes() + b"\0")
    seen.add(fingerprint())
    (pictures / "test/cat/001.jpg").unlink()
    seen.add(fingerprint())
    assert len(seen) == 4


def test_the_fingerprint_of_a_folder_does_not_depend_on_where_it_lies(
    pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = open_dataset("imagefolder", "test", root=pictures).fingerprint
    moved = pictures.rename(tmp_path_factory.mktemp("elsewhere") / "data")
    assert open_dataset("imagefolder", "test", root=moved).fingerprint == first


def test_a_folder_set_is_read_by_worker_processes(pictures: Path) -> None:
    images = pickle.loads(pickle.dumps(open_dataset("imagefolder", "test", root=pictures)))
    loader: Any = DataLoader(
        Rows(images), batch_size=3, num_workers=1, multiprocessing_context="fork"
    )
    together = torch.cat(list(loader))
    assert torch.equal(together, images.images(range(6)))


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "gone"])
def test_a_damaged_picture_is_named(damage: str, pictures: Path) -> None:
    images: Any = open_dataset("imagefolder", "test", root=pictures)
    path = images.path(0)
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(
            {"truncated": data[: len(data) // 2], "text": b"no picture", "empty": b""}[damage]
        )
    with pytest.raises(CossError) as error:
        images.images([0])
    assert str(path) in one_line(error)
    with pytest.raises(CossError) as error:
        images.raw(0)
    assert str(path) in one_line(error)


def test_a_class_that_train_does_not_have_is_refused(pictures: Path) -> None:
    write_pictures(pictures / "test", ("gnu",), 1)
    with pytest.raises(CossError, match="gnu has no counterpart"):
        open_dataset("imagefolder", "test", root=pictures)


def test_pictures_that_are_not_sorted_into_class_folders_are_refused(pictures: Path) -> None:
    for name in CLASSES:
        (pictures / "test" / name).rename(pictures / f"unused-{name}")
    with pytest.raises(CossError, match="has no class folders"):
        open_dataset("imagefolder", "test", root=pictures)


def test_class_folders_without_pictures_are_refused(pictures: Path) -> None:
    for path in (pictures / "test").glob("*/*"):
        path.unlink()
    with pytest.raises(CossError, match="has no pictures"):
        open_dataset("imagefolder", "test", root=pictures)


@pytest.mark.parametrize("source", [IMAGEFOLDER, IMAGENET], ids=lambda s: s.name)
def test_a_train_folder_alone_is_not_enough(source: Any, tmp_path: Path) -> None:
    write_pictures(tmp_path / "train", CLASSES, 1)
    assert source.missing(tmp_path) is not None
    with pytest.raises(CossError, match=f"{source.name} is not in"):
        open_dataset(source.name, "train", root=tmp_path)
