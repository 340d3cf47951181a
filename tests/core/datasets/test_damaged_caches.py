"""A cache of decoded pictures that cannot be used, or holds what is none, stops no evaluation."""

from __future__ import annotations

import pwd
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.picture_files import CLASSES, write_pictures

from robustbench_coss.datasets import decoded
from robustbench_coss.datasets.base import missing_data, open_dataset
from robustbench_coss.datasets.decoded import Decoded
from robustbench_coss.datasets.folder import FolderSet
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.protocol import make_suite
from robustbench_coss.files import cache_folder

ORDER = [4, 0, 5, 3, 1, 2]


def header(text: str) -> bytes:
    """The beginning of a .npy file of version 1."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


OTHERS = {
    "a zip archive that is cut": b"PK\x03\x04" + bytes(100),
    "an empty zip archive": b"PK\x05\x06" + bytes(18),
    "a pickle": b"\x80\x04K\x01.",
    "brackets": header("(" * 9000),
    "a NUL": header("{'descr': '\0'}"),
    "fewer than none": header(
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-6, 3, 16, 16)}\n"
    ),
    "objects": header("{'descr': '|O', 'fortran_order': False, 'shape': (6, 3, 16, 16)}\n"),
    "another number of axes": header("{'descr': '|u1', 'fortran_order': False, 'shape': ()}\n\1"),
}


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderSet:
    """Six pictures, which are all kept in one file."""
    monkeypatch.setattr(decoded, "MOST_MEMORY", 0)
    monkeypatch.setattr(decoded, "LEFT_FREE", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for part in ("train", "val"):
        write_pictures(tmp_path / part, CLASSES, 2)
    found = open_dataset("imagefolder", "test", root=tmp_path, size=16)
    assert isinstance(found, FolderSet)
    return found


@pytest.mark.filterwarnings("ignore:6 decoded pictures")
@pytest.mark.filterwarnings("ignore:unclosed file")  # numpy's, of an archive that is none
def test_a_file_of_anything_else_is_made_again(images: FolderSet) -> None:
    store, expected = Decoded(images, ORDER), images.images(ORDER)
    store.images(ORDER)
    assert store.folder is not None
    (file,) = store.folder.glob("*.npy")
    for what, content in OTHERS.items():
        file.write_bytes(content)
        assert torch.equal(store.images(ORDER), expected), what
        np.testing.assert_array_equal(np.load(file), expected.numpy(), err_msg=what)


def test_a_folder_whose_name_is_too_long_leaves_pictures_to_be_decoded_anew(
    images: FolderSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ("x" * 300)))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        store = Decoded(images, ORDER)
        assert torch.equal(store.images(ORDER), images.images(ORDER))
    assert "File name too long" in str(said[-1].message)
    assert "decoded anew" in str(said[-1].message)


def test_without_a_home_folder_another_one_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> None:  # as for a user number that a container was started with
        raise KeyError(number)

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(CossError, match="no home folder to keep a cache in; set XDG_CACHE_HOME"):
        cache_folder()


@pytest.mark.parametrize(
    ("suite", "options", "words"),
    [
        ("shift", {"root": "~nobody-of-this-name/x"}, "is in ~nobody-of-this-name/x"),
        ("shift", {"sets": "~nobody-of-this-name/x.yaml"}, "cannot read ~nobody-of-this-name"),
        ("ood", {"near": "~nobody-of-this-name/x"}, "there is no '~nobody-of-this-name/x'"),
        ("corruption", {"root": "~nobody-of-this-name/x"}, "is not a folder"),
    ],
)
def test_the_home_of_nobody_is_a_folder_that_is_not_there(
    suite: str, options: dict[str, str], words: str, images: FolderSet, tmp_path: Path
) -> None:
    def configured() -> None:
        made = make_suite(suite, options)
        made.look_in(tmp_path)
        made.configure(images)

    with pytest.raises(CossError, match=words):
        configured()


def test_a_data_root_that_cannot_be_is_no_fault_of_a_package(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="File name too long"):
        missing_data("fashion-mnist", tmp_path / ("x" * 300))
