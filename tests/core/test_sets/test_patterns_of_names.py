"""Classes told by a regular expression of one's own, however that is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from robustbench_coss.errors import CossError
from robustbench_coss.test_sets.description import describe
from robustbench_coss.test_sets.opening import members, open_folders
from tests.core.test_sets.test_published_sets import test_images, written

LONG = "a" * 120


@pytest.mark.parametrize(
    "pattern",
    [r"(a+)+$", r"(?:a|aa)*(b)", r"a*" * 12 + "(b)"],
)
def test_an_expression_that_would_never_end_is_an_error_of_one_line(
    pattern: str, tmp_path: Path
) -> None:
    name = written(tmp_path, class_in=pattern)
    picture = tmp_path / "mine" / LONG / f"{LONG}.png"
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(picture)
    before = os.times().children_user
    with pytest.raises(CossError, match=r"class_in \(.+takes too long on the names in") as error:
        open_folders(name, tmp_path / "mine", members(name, ["a", "b"], "toy"), test_images(["x"]))
    assert os.times().children_user - before < 1
    assert "\n" not in str(error.value)


def test_a_group_that_takes_no_part_names_no_class(tmp_path: Path) -> None:
    name = written(tmp_path, class_in=r"(a)?.*")
    Image.new("RGB", (8, 8)).save((tmp_path / "mine").mkdir() or tmp_path / "mine" / "b.png")
    with pytest.raises(CossError, match=r"mine/b.png is not called as the pictures of"):
        open_folders(name, tmp_path / "mine", members(name, ["a", "b"], "toy"), test_images(["x"]))


@pytest.mark.parametrize("pattern", ["(a{99999999999})", "(" * 3000 + ")" * 3000])
def test_an_expression_past_what_python_compiles_is_named(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(CossError, match="class_in is no regular expression"):
        describe(written(tmp_path, class_in=pattern))
