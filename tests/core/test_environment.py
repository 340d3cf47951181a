from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from robustbench_coss.errors import CossError
from robustbench_coss.machine import environment
from robustbench_coss.machine.environment import (
    Finding,
    check_writable,
    device_name,
    doctor,
    required,
    resolve_device,
    versions,
)


def finding(name: str, root: Path) -> Finding:
    return next(f for f in doctor(root / "data", root / "results") if f.name == name)


def test_versions_are_those_that_the_modules_report() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["numpy"] == np.__version__
    assert torch.__version__.startswith(found["torch"])  # which adds the build, "+cu130"
    assert set(found) == {"python", *environment.PACKAGES}


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "no-such-distribution"))
    assert set(versions()) == {"python", "torch"}


def test_auto_takes_cuda_only_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cpu") == torch.device("cpu")


def test_cuda_without_a_gpu_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CossError, match="or use --device cpu"):
        resolve_device("cuda")


def test_an_unknown_device_is_refused_with_the_known_ones() -> None:
    with pytest.raises(CossError, match="'tpu'; known: auto, cpu, cuda"):
        resolve_device("tpu")


def test_a_cpu_is_described_with_its_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert device_name(torch.device("cpu")).endswith(", 1 thread")
    finally:
        torch.set_num_threads(before)


def test_requirements_of_extras_and_of_other_systems_are_left_out() -> None:
    requirements = [
        "torch>=2.6",
        "numpy >= 1.26 , <3",
        "plain",
        'ruff>=0.8; extra == "dev"',
        'tomli>=2.0; python_version < "3.11"',
    ]
    found = {r.name: str(r.specifier) for r in required(requirements)}
    assert found == {"torch": ">=2.6", "numpy": "<3,>=1.26", "plain": ""}


def test_check_writable_leaves_the_folder_and_nothing_in_it(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_file_in_the_way_of_a_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(CossError, match="a file is in the way"):
        check_writable(tmp_path / "results" / "records")


def test_doctor_finds_nothing_required_broken_and_changes_nothing(tmp_path: Path) -> None:
    findings = doctor(tmp_path / "data", tmp_path / "results")
    assert [f for f in findings if f.required and not f.ok] == []
    assert all(f.remedy for f in findings if not f.ok)
    assert {"python", "torch", "imagecorruptions", "device", "disk space"} <= {
        f.name for f in findings
    }
    assert list(tmp_path.iterdir()) == []


def test_doctor_reports_missing_data_as_optional(tmp_path: Path) -> None:
    found = finding("data set cifar10", tmp_path)
    assert not found.ok
    assert not found.required
    assert found.remedy


@pytest.mark.parametrize(
    ("installed", "enough"),
    [("1.13.1", False), ("2.5.10", False), ("2.6.0rc1", False), ("2.6.0+cu126", True)],
)
def test_doctor_reports_a_package_below_its_bound(
    installed: str, enough: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda n: installed if n == "torch" else real(n))
    found = finding("torch", tmp_path)
    assert found.required
    assert found.ok == enough
    assert found.detail == f"{installed} (needs >=2.6)"
    assert found.remedy == ("" if enough else 'pip install "torch>=2.6"')


@pytest.fixture
def old_imagecorruptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unmaintained distribution, installed as far as its metadata."""
    info = tmp_path / "site" / "imagecorruptions-1.1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: imagecorruptions\nVersion: 1.1.2\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


@pytest.mark.usefixtures("old_imagecorruptions")
def test_doctor_reports_both_imagecorruptions_distributions(tmp_path: Path) -> None:
    found = finding("imagecorruptions", tmp_path)
    assert not found.ok
    assert "pip uninstall imagecorruptions" in found.remedy


def test_doctor_reports_an_imagecorruptions_that_does_not_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)  # makes the import raise
    found = finding("imagecorruptions", tmp_path)
    assert not found.ok
    assert "does not import" in found.detail


def test_doctor_reports_a_file_where_the_results_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    found = finding("results folder", tmp_path)
    assert not found.ok
    assert "a file is in the way" in found.detail


def test_doctor_reports_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "FREE_SPACE_WANTED", 1 << 80)
    assert not finding("disk space", tmp_path).ok
