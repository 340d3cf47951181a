"""Descriptions of published test sets, their class maps, and folders that do not fit them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.published_sets import publish, put
from PIL import Image

from robustbench_coss.datasets.base import ArraySet, open_dataset
from robustbench_coss.errors import CossError
from robustbench_coss.test_sets.description import class_map, describe, shipped
from robustbench_coss.test_sets.opening import (
    Members,
    answers,
    find,
    members,
    open_arrays,
    open_folders,
    textures,
)

WNIDS = [target for targets in class_map("imagenet-sketch").values() for target in targets]
MINE = {
    "title": "x",
    "about": "x",
    "trained_on": "imagenet",
    "folders": ["mine"],
    "layout": "folders",
    "classes": ["a", "b"],
    "pictures": 2,
    "paper": "x",
    "source": "x",
    "licence": "x",
    "checked": "x",
}


def test_images(classes: list[str]) -> ArraySet:
    pixels = torch.zeros(len(classes), 3, 8, 8, dtype=torch.uint8)
    return ArraySet("toy", "test", pixels, torch.arange(len(classes)), tuple(classes), 8)


test_images.__test__ = False  # type: ignore[attr-defined]


def whole(name: str) -> Members:
    return members(name, WNIDS, "imagenet")


# ---- what is shipped ----


@pytest.mark.parametrize(
    ("name", "classes", "targets"),
    [  # as each publication says
        *[("imagenet-a", 200, 200), ("imagenet-r", 200, 200), ("imagenet-sketch", 1000, 1000)],
        *[("objectnet", 113, 125), ("laion-c", 16, 285), ("cue-conflict", 16, 207)],
        *[("cifar-10.1", 10, 10), ("cifar-10.2", 10, 10), ("imagenet-v2-threshold", 1000, 1000)],
    ],
)
def test_maps_have_as_many_classes_as_were_published(name: str, classes: int, targets: int) -> None:
    known = class_map(name)
    assert len(known) == classes
    assert sum(map(len, known.values())) == targets


@pytest.mark.parametrize(("name", "letter"), [("imagenet-a", "a"), ("imagenet-r", "r")])
def test_the_two_hundred_classes_are_those_that_timm_lists(name: str, letter: str) -> None:
    data = pytest.importorskip("timm.data", reason="needs the extra `models`")
    info = Path(data.__file__).parent / "_info"
    assert list(class_map(name)) == (info / f"imagenet_{letter}_synsets.txt").read_text().split()
    assert (info / "imagenet_synsets.txt").read_text().split() == WNIDS


@pytest.mark.parametrize("name", [n for n in shipped() if describe(n).trained_on == "imagenet"])
def test_every_target_is_a_class_of_imagenet(name: str) -> None:
    targets = [t for each in class_map(name).values() for t in each]
    assert set(targets) <= set(WNIDS)
    assert len(set(targets)) == len(targets)


def test_the_page_has_a_row_for_every_set() -> None:
    page = (ROOT / "docs" / "test-sets.md").read_text(encoding="utf-8")
    for name in shipped():
        told, known = describe(name), class_map(name)
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        pictures = "not stated" if told.pictures is None else f"{told.pictures:,}"
        times = f" × {len(told.kinds)} × {len(told.levels)}" if told.kinds else ""
        assert cells[1:3] == [f"{pictures}{times}", f"{len(known):,}"], name
        assert told.source in cells[-1]


def test_the_page_states_the_digest_of_every_archive() -> None:
    page = (ROOT / "docs" / "test-sets.md").read_text(encoding="utf-8")
    rows = [
        f"| `{each.name}` | `{name}` | {each.bytes:,} | `{each.digest}` |"
        for name in shipped()
        for each in describe(name).archives
    ]
    assert [line for line in page.splitlines() if re.search(r"(sha256|md5|git):\w", line)] == rows


# ---- one's own ----


def written(tmp_path: Path, **changes: Any) -> str:
    import yaml

    content = {k: v for k, v in (MINE | changes).items() if v is not None}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    return str(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"licence": None}, "licence: Field required"),
        ({"lisence": "x"}, "lisence: Extra inputs are not permitted"),
        ({"layout": "folder"}, "layout: Input should be 'folders'"),
        ({"decision": "best"}, "decision: Input should be"),
        ({"pictures": 0}, "pictures: Input should be greater than"),
        ({"layout": "arrays"}, "layout arrays needs images and labels"),
        ({"layout": "answers"}, "layout answers needs answers"),
        ({"pairs": True}, "need kinds"),
        ({"folders": []}, "folders: Tuple should have at least 1 item"),
        ({"kinds": ["fog", "snow", "fog"]}, "kinds has fog twice"),
        ({"kinds": ["fog"], "levels": [2, 1, 2]}, "levels has 2 twice"),
        ({"kinds": ["fog", "snow"], "path": "{level}"}, "path lacks {kind}, and all kinds would"),
        ({"kinds": ["fog"], "path": "{kind}"}, "path lacks {level}, and all levels would"),
        ({"kinds": ["fog"], "path": "{kind:d}/{level}"}, "path is no pattern (Unknown format"),
        ({"kinds": ["fog"], "path": "{kind!x}/{level}"}, "path is no pattern (Unknown conver"),
        ({"kinds": ["fog"], "path": "{kind}/{level:>99999999999999}"}, "path is no pattern ("),
        ({"class_in": "("}, "class_in is no regular expression"),
        ({"class_in": "[a-z]+"}, "class_in needs one group, which is the class, and has 0"),
        ({"class_in": "(a)", "layout": "cue-conflict"}, "class_in is for pictures in folders"),
        ({"archives": [{"name": "x", "digest": "sha256:12"}]}, "archives.0.digest: String should"),
    ],
)
def test_a_wrong_key_is_named(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(CossError) as error:
        describe(written(tmp_path, **changes))
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'mine.yaml'}: ")
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ({"one": "a", "two": ["b", "a"]}, "classes lists a twice"),
        ({}, "classes lists none at all"),
        ("nobody.txt", "there is no file 'nobody.txt' beside it"),
    ],
)
def test_a_map_that_is_none_is_refused(classes: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(CossError, match=words):
        class_map(written(tmp_path, classes=classes))


def test_a_file_that_is_no_yaml_and_a_name_that_is_none_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "torn.yaml").write_text("{title: x")
    with pytest.raises(CossError, match=r"torn.yaml is no YAML"):
        describe(str(tmp_path / "torn.yaml"))
    with pytest.raises(CossError, match=r"unknown test set 'imagenet-b'; did you mean imagenet-"):
        describe("imagenet-b")


def test_a_list_of_classes_lies_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x\ny\n")
    known = class_map(written(tmp_path, classes="mine.txt", numbered=True))
    assert known == {"0": ("x",), "1": ("y",)}


# ---- where they lie ----


@pytest.mark.parametrize("name", ["imagenet-a", "objectnet", "cifar-10.2", "imagenet-real"])
def test_a_set_is_found_below_the_root_and_where_the_root_is_its_own_folder(
    name: str, tmp_path: Path
) -> None:
    assert find(name, tmp_path) is None
    folder = publish(name, tmp_path)
    assert find(name, tmp_path) == folder
    top = tmp_path / describe(name).folders[0].split("/")[0]
    assert find(name, top) == folder
    assert find(name, tmp_path / "elsewhere") is None


# ---- folders that do not fit ----


def test_folders_beyond_the_map_and_lacking_ones_are_named(tmp_path: Path) -> None:
    folder = publish("imagenet-a", tmp_path)
    put(folder, ["n00000001", "n00000002"])
    for name in list(class_map("imagenet-a"))[5:9]:
        shutil.rmtree(folder / name)
    with pytest.raises(CossError) as error:
        open_folders("imagenet-a", folder, whole("imagenet-a"), test_images(WNIDS))
    first = ", ".join(list(class_map("imagenet-a"))[5:8])
    assert str(error.value) == (
        f"{folder} is not laid out as test set imagenet-a: it has 2 class folders that its map "
        f"lacks (n00000001, n00000002) and lacks 4 of its map ({first} and 1 more); unpack the "
        "archive again"
    )


def test_a_numbered_set_under_names_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "v2", WNIDS)
    with pytest.raises(CossError, match=r"1,000 class folders that its map lacks .n01440764"):
        open_folders(
            "imagenet-v2-threshold", tmp_path / "v2", whole("imagenet-sketch"), test_images(WNIDS)
        )


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    folder = publish("imagenet-r", tmp_path)
    next((folder / "n01443537").iterdir()).unlink()
    with pytest.raises(CossError, match=r"class folder n01443537 in .* holds no pictures"):
        open_folders("imagenet-r", folder, whole("imagenet-r"), test_images(WNIDS))


def test_numbers_are_sorted_by_value_with_and_without_zeros(tmp_path: Path) -> None:
    name = written(tmp_path, classes=[f"c{k}" for k in range(12)], numbered=True)
    for kind in ("{}", "{:04d}"):
        folder = tmp_path / kind.strip("{}:")
        for k in range(12):
            put(folder, [kind.format(k)])
        chosen = members(name, [f"c{k}" for k in range(12)], "toy")
        with pytest.warns(UserWarning, match="0 is c0, 1 is c1, 2 is c2, …, 11 is c11"):
            opened = open_folders(name, folder, chosen, test_images(["x"]))
        found = [int(opened.path(i).parent.name) for i in range(12)]
        assert found == opened.labels.tolist() == list(range(12))


def test_two_folders_of_one_number_are_refused(tmp_path: Path) -> None:
    name = written(tmp_path, numbered=True)
    put(tmp_path / "v2", ["0", "1", "01"])
    chosen = members(name, ["a", "b"], "toy")
    with pytest.raises(CossError, match="two class folders of number 1; unpack it again"):
        open_folders(name, tmp_path / "v2", chosen, test_images(["x"]))


def test_classes_are_told_by_names_of_pictures_where_a_pattern_says_so(tmp_path: Path) -> None:
    name = written(tmp_path, class_in=r"(?:.+/)?\d+-([a-z]+)\.png")
    for path in ("1-a.png", "deep/2-b.png", "deep/3-a.png"):
        (tmp_path / "mine" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "mine" / path)
    chosen = members(name, ["a", "b"], "toy")
    opened = open_folders(name, tmp_path / "mine", chosen, test_images(["x"]))
    assert [opened.path(i).name for i in range(3)] == ["1-a.png", "3-a.png", "2-b.png"]
    assert opened.labels.tolist() == [0, 0, 1]
    (tmp_path / "mine" / "1-c.png").touch()
    with pytest.raises(CossError, match=r"has 1 classes that its map lacks \(c\)"):
        open_folders(name, tmp_path / "mine", chosen, test_images(["x"]))
    (tmp_path / "mine" / "a.png").touch()
    with pytest.raises(CossError, match=r"mine/a.png is not called as the pictures of"):
        open_folders(name, tmp_path / "mine", chosen, test_images(["x"]))


def test_a_map_may_be_that_of_a_shipped_set(tmp_path: Path) -> None:
    assert class_map(written(tmp_path, classes="cue-conflict")) == class_map("cue-conflict")


def test_classes_of_another_data_set_are_refused_with_the_first_of_both() -> None:
    with pytest.raises(CossError) as error:
        members("imagenet-a", ["cat", "dog", "eel", "fox"], "pets")
    assert "it has n01498041, n01531178, n01534433 and 197 more" in str(error.value)
    assert "pets has cat, dog, eel and 1 more" in str(error.value)


def test_of_some_shared_classes_only_these_are_kept_in_the_order_of_the_map() -> None:
    trained = [WNIDS[999], WNIDS[409], "other", WNIDS[530], WNIDS[954]]
    with pytest.warns(UserWarning, match="3 of the 113 classes of test set objectnet"):
        chosen = members("objectnet", trained, "toy")
    assert chosen.names == ("alarm_clock", "banana", "toilet_paper_roll")
    assert chosen.groups == ((1, 3), (4,), (0,))
    assert not chosen.whole
    assert chosen.label_of(5).tolist() == [2, 0, -1, 0, 1]


@pytest.mark.parametrize(
    ("file", "array", "words"),
    [
        ("data", np.zeros((40, 32, 32), np.uint8), "expected uint8 of shape"),
        ("data", np.zeros((40, 32, 32, 3), np.float32), "holds float32 of shape"),
        ("labels", np.zeros(39, np.int64), r"shape \[39\] for 40 pictures"),
        ("labels", np.full(40, 10), "has labels from 10 to 10, and test set cifar-10.1 has 10"),
        ("labels", np.array([object()] * 40), "is damaged"),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    file: str, array: Any, words: str, tmp_path: Path
) -> None:
    folder, classes = publish("cifar-10.1", tmp_path), list(describe("cifar-10.1").classes)
    np.save(folder / f"cifar10.1_v6_{file}.npy", array, allow_pickle=True)
    chosen = members("cifar-10.1", classes, "cifar10")
    with pytest.raises(CossError, match=words):
        open_arrays("cifar-10.1", folder, chosen, test_images(classes))


def test_a_picture_that_is_all_border_and_names_without_a_texture_are_named(tmp_path: Path) -> None:
    folder = publish("objectnet", tmp_path)
    tiny = folder / "banana" / "0.png"
    tiny.unlink()
    Image.new("RGB", (4, 9)).save(tiny)
    opened = open_folders("objectnet", folder, whole("objectnet"), test_images(WNIDS))
    index = next(i for i in range(len(opened)) if opened.path(i) == tiny)
    with pytest.raises(CossError, match=r"banana/0.png is all border"):
        opened.images([index])
    cues = publish("cue-conflict", tmp_path)
    (cues / "cat" / "cat1-dog2.png").rename(cues / "cat" / "dog1-cat2.png")
    opened = open_folders("cue-conflict", cues, whole("cue-conflict"), test_images(WNIDS))
    with pytest.raises(CossError, match="is not called after its shape and a texture"):
        textures(opened)


@pytest.mark.parametrize(
    ("content", "words"),
    [("[[1]", "is damaged"), ("[[1000]]", "is no list of lists"), ('{"a": []}', "is no list")],
)
def test_answers_that_are_none_are_refused(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text(content)
    with pytest.raises(CossError, match=words):
        answers("imagenet-real", tmp_path, test_images(WNIDS))


def test_answers_need_pictures_with_numbers(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("[[0], [1]]")
    with pytest.raises(CossError, match="goes by the names of pictures, which those of toy lack"):
        answers("imagenet-real", tmp_path, test_images(WNIDS))
    for part in ("train", "val"):
        put(tmp_path / part, ["cat", "dog"], 10)
    named = open_dataset("imagefolder", "test", size=8, root=tmp_path)
    with pytest.raises(CossError, match=r"1 to 2, and \d.JPEG has none; measure on ImageNet's own"):
        answers("imagenet-real", tmp_path, named)
