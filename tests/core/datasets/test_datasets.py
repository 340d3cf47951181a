"""Data sets: the contract they share, and what is said of missing data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.picture_files import one_line

from robustbench_coss import registry
from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.datasets.vision import FASHION_MNIST
from robustbench_coss.errors import CossError
from robustbench_coss.testing import check_dataset

# ---- every registered data set ----


@pytest.mark.parametrize("name", registry.names("dataset"))
def test_every_available_data_set_keeps_the_contract(name: str, tmp_path: Path) -> None:
    if not check_dataset(name, tmp_path):
        pytest.skip(f"{name} is not on this machine")


# ---- missing data ----

ARRAYS = ("mnist", "cifar10", "cifar100", "stl10")


@pytest.mark.parametrize("name", [*ARRAYS, "imagefolder", "imagenet"])
def test_missing_data_are_an_error_that_names_path_and_remedy(name: str, tmp_path: Path) -> None:
    with pytest.raises(CossError) as error:
        open_dataset(name, "train", root=tmp_path)
    message = one_line(error)
    assert str(tmp_path) in message
    assert registry.load("dataset", name).missing(tmp_path) in message
    assert "--data-root" in message


@pytest.mark.parametrize("name", [*ARRAYS, "imagefolder", "imagenet"])
def test_a_data_root_that_does_not_exist_is_said_so(name: str, tmp_path: Path) -> None:
    with pytest.raises(CossError, match="does not exist"):
        open_dataset(name, "train", root=tmp_path / "typo")


@pytest.mark.parametrize("name", [*ARRAYS, "fashion-mnist", "imagefolder", "imagenet"])
def test_a_data_root_that_is_a_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(CossError, match="is a file"):
        open_dataset(name, "train", root=path, download=True)


def test_missing_fashion_mnist_names_the_debian_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = replace(FASHION_MNIST, folders=FASHION_MNIST.folders[:2])
    with pytest.raises(CossError) as error:
        without.open("test", 32, tmp_path, False)
    message = one_line(error)
    assert "apt-get install dataset-fashion-mnist" in message
    assert "--download" in message


@pytest.mark.parametrize("name", ARRAYS)
def test_a_failed_download_is_one_line_and_prints_nothing(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import urllib.request

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(CossError) as error:
        open_dataset(name, "train", root=tmp_path / "new", download=True)
    message = one_line(error)
    assert "cannot download" in message
    assert "no route to host" in message
    assert capsys.readouterr() == ("", "")


def test_imagenet_cannot_be_downloaded_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(CossError, match="cannot be downloaded"):
        open_dataset("imagenet", "train", root=tmp_path, download=True)
