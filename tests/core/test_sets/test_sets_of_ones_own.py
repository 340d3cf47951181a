"""Descriptions that users write: what is taken, what is refused, and in what words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.picture_files import write_pictures

from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.datasets.image_list import listed
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.suites.shift import Shift
from robustbench_coss.test_sets.description import class_map, describe
from robustbench_coss.test_sets.opening import members, open_folders

PLAIN = """
title: x
about: x
trained_on: imagefolder
folders: [mine]
layout: folders
classes: [cat, dog]
pictures: 4
paper: x
source: x
licence: x
checked: x
"""


def written(folder: Path, old: str = "", new: str = "", name: str = "mine.yaml") -> str:
    assert old in PLAIN
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(PLAIN.replace(old, new) if old else PLAIN, encoding="utf-8")
    return str(folder / name)


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        ("layout: folders", "layout: folders\nkinds: [a]\npath: '{kind}/{x}'", "and has {x}"),
        ("layout: folders", "layout: folders\nkinds: [a]\npath: '{}/{level}'", "and has {}"),
        ("layout: folders", "layout: folders\nkinds: [a]\npath: '{kind'", "path is no pattern"),
        (
            "layout: folders",
            "layout: folders\npath: '{kind.__class__}'",
            "may hold {kind} and {lev",
        ),
        (
            "layout: folders",
            "layout: folders\nimages: '{level}.npy'",
            "images may hold {kind}, and",
        ),
        ("classes: [cat, dog]", "classes: [[cat], dog]", "classes.0: Input should be a valid str"),
        ("classes: [cat, dog]", "classes: {cat: {a: b}}", "classes.cat: Input should be"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_its_key(
    line: str, instead: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(CossError) as error:
        describe(written(tmp_path, line, instead))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "word\n"])
def test_a_file_without_keys_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(CossError, match=r"mine.yaml holds no keys and values$"):
        describe(str(tmp_path / "mine.yaml"))


def test_a_file_that_was_changed_is_read_again(tmp_path: Path) -> None:
    name = written(tmp_path)
    assert describe(name).pictures == 4
    assert describe(written(tmp_path, "pictures: 4", "pictures: 5")).pictures == 5


def test_classes_may_be_called_by_numbers_and_a_file_begin_with_a_mark(tmp_path: Path) -> None:
    name = written(tmp_path, "\ntitle", "\ufefftitle")
    assert describe(name).title == "x"
    name = written(tmp_path, "classes: [cat, dog]", "classes: {7: cat, 10: dog}")
    assert class_map(name) == {"7": ("cat",), "10": ("dog",)}


def test_maps_that_tell_nothing_apart_are_refused(tmp_path: Path) -> None:
    name = written(tmp_path, "classes: [cat, dog]", "classes: {cat: cat, dog: []}")
    with pytest.raises(CossError, match="classes gives dog no training class; remove it"):
        class_map(name)
    name = written(tmp_path, "classes: [cat, dog]", "classes: [cat]")
    with pytest.raises(CossError, match="has one class, and there is nothing to tell apart"):
        members(name, ["cat", "dog"], "pets")


def test_a_set_that_is_named_twice_or_shares_a_name_is_refused(tmp_path: Path) -> None:
    one, other = written(tmp_path), written(tmp_path, name="other/mine.yaml")
    for sets in ([one, one], [one, other], ["imagenet-a", "imagenet-a"]):
        with pytest.raises(CossError, match=r"shift.sets names (mine|imagenet-a) twice; name each"):
            Shift(sets=sets)


def test_sets_are_named_as_a_list_or_with_commas() -> None:
    for sets in (["imagenet-a", "imagenet-r"], "imagenet-a,imagenet-r", "imagenet-a, imagenet-r"):
        assert Shift(sets=sets).asked == ["imagenet-a", "imagenet-r"]
    with pytest.raises(CossError, match=r"shift.sets must be names, one or several, got 3"):
        Shift(sets=3)  # type: ignore[arg-type]


def test_class_folders_that_lie_one_deeper_are_found_and_named(tmp_path: Path) -> None:
    for part in ("train", "val", "mine/inner"):
        write_pictures(tmp_path / part, ("cat", "dog"), 10 if part == "train" else 2)
    name, test = written(tmp_path), open_dataset("imagefolder", "test", size=8, root=tmp_path)
    chosen = members(name, test.classes, "imagefolder")
    with pytest.raises(CossError, match=re.escape(f"move the folders in {tmp_path}/mine/inner up")):
        open_folders(name, tmp_path / "mine", chosen, test)


def test_a_list_of_pictures_may_begin_with_a_mark_and_must_be_utf_8(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_pictures(tmp_path / part, ("cat", "dog"), 10)
    test, file = open_dataset("imagefolder", "test", size=8, root=tmp_path), tmp_path / "list.txt"
    names = "val/cat/000.png\r\nval/dog/000.png\r\n"
    file.write_bytes(names.encode("utf-8-sig"))
    assert listed(test, file).tolist() == [0, 10]
    file.write_bytes(names.encode("utf-16"))
    with pytest.raises(CossError, match=r"list.txt is no text in UTF-8; save it as such"):
        listed(test, file)
