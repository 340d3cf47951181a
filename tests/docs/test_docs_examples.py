"""The Python examples of the documentation do what the text says."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torchvision
from helpers import ROOT
from helpers.documents import DOCS, EXAMPLES, MANUAL, blocks
from helpers.simulate import clean, save
from PIL import Image

from robustbench_coss import registry
from robustbench_coss.encoders.receptive_field import field_by_gradient
from robustbench_coss.models.checkpoint import build_encoder, load_checkpoint
from robustbench_coss.pretrain.recipe import build_recipe


def test_weights_from_elsewhere_become_an_encoder_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = torchvision.models.resnet18()
    torch.save(reference.state_dict(), tmp_path / "resnet18.pth")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(DOCS / "encoders.md", "python")
    exec(code.replace("resnet50", "resnet18"), {})
    loaded = load_checkpoint(tmp_path / "runs" / "torchvision-resnet18")
    assert torch.equal(loaded.encoder.conv1.weight, reference.conv1.weight)  # type: ignore[union-attr, arg-type]
    assert loaded.metadata["method"] == "supervised"


@pytest.mark.slow
@pytest.mark.usefixtures("few_pictures")
def test_the_example_of_the_readme_measures_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "README.md", "python")
    small = {
        '"DEFAULT"': "None",
        '"clean", "corruption"': '"clean"',
        '"cifar10"': '"parts"',
        "500": "8",
    }
    for shown, run in small.items():
        assert shown in code
        code = code.replace(shown, run)
    exec(code.replace("limit=8", "limit=8, device='cpu'"), {})
    condition, value = capsys.readouterr().out.split()[-2:]
    assert condition == "clean"
    assert 0 <= float(value) <= 1


def test_the_picture_of_parts_is_what_its_code_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs" / "images").mkdir(parents=True)
    (code,) = blocks(DOCS / "datasets.md", "python")
    exec(code, {})
    drawn, kept = (
        np.asarray(Image.open(folder / "docs" / "images" / "parts.png").convert("RGB"), np.float64)
        for folder in (tmp_path, ROOT)
    )
    assert drawn.shape == kept.shape
    assert np.abs(drawn - kept).mean() < 2  # of 255: the palette is the imaging library's choice


def test_the_example_of_reading_records_prints_accuracies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "results", clean(0.75, n=200, name="mine"))
    monkeypatch.chdir(tmp_path)
    code, _ = blocks(DOCS / "results.md", "python")
    exec(code, {})
    assert capsys.readouterr().out == "mine clean 0.75\n"


@pytest.fixture(scope="module")
def my_package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The examples of docs/extending.md as the package that they stand for."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "my_package.py").write_text("\n".join(blocks(DOCS / "extending.md", "python")))
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("my_package")
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("my_package", None)


def test_the_entry_points_shown_name_what_the_examples_define(my_package: ModuleType) -> None:
    (text,) = blocks(DOCS / "extending.md", "toml")
    groups = tomllib.loads(text)["project"]["entry-points"]
    assert set(groups) == {f"robustbench_coss.{kind}s" for kind in registry.KINDS}
    assert groups.pop("robustbench_coss.suites").items() <= EXAMPLES["suite"].items()
    for entries in groups.values():
        for name, target in entries.items():
            made = getattr(my_package, target.removeprefix("my_package:"))
            assert getattr(made, "name", name) == name


def test_the_example_of_an_encoder_keeps_the_contract(my_package: ModuleType) -> None:
    encoder = my_package.Patches(size=32, width=0.5).eval()
    local = encoder.local(torch.rand(2, 3, 32, 32))
    assert local.shape == (2, 64, 4, 4)
    torch.testing.assert_close(encoder.pool(local), local.mean((2, 3)))
    assert field_by_gradient(encoder, 8) == encoder.field


def test_the_example_of_a_data_set_reads_arrays(my_package: ModuleType, tmp_path: Path) -> None:
    source = my_package.MY_DATA
    assert "train.npz" in source.missing(tmp_path)
    (tmp_path / "my-data").mkdir()
    for part, count in (("train", 20), ("test", 6)):
        x = np.full((count, 3, 32, 32), count, np.uint8)
        np.savez(tmp_path / "my-data" / f"{part}.npz", x=x, y=np.arange(count) % 2)
    assert source.missing(tmp_path) is None
    opened = {r: source.open(r, 32, tmp_path, False) for r in ("train", "validation", "test")}
    assert [len(images) for images in opened.values()] == [18, 2, 6]
    assert (opened["test"].images([0]) == 6).all()


@pytest.mark.parametrize("name", ["SimSiam", "COSimSiam"])
def test_the_example_of_a_method_trains(my_package: ModuleType, name: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder("rf29_resnet18", size=32, width=1 / 16)
    method = getattr(my_package, name)(encoder, build_recipe({"options": {"dim": 16}}, "docs"))
    loss = method.losses(method.encode([torch.rand(6, 3, 32, 32) for _ in range(2)]))["loss"]
    assert 0 <= loss.item() <= 8  # 2 - 2·cos, summed over two directions
    loss.backward()
    assert encoder.conv1.weight.grad.abs().sum() > 0  # type: ignore[union-attr, operator]
    assert float(method.embedding_std) > 0


def test_every_python_example_is_run_by_a_test_above() -> None:
    shown = {page.name: len(blocks(page, "python")) for page in MANUAL if blocks(page, "python")}
    assert shown == {
        "README.md": 1,
        "datasets.md": 1,
        "encoders.md": 1,
        "export.md": 6,  # by tests/core/export
        "extending.md": 3,
        "results.md": 2,  # the second by tests/core/test_paper_tables.py
        "rf-resnet.md": 1,
        "write-a-suite.md": 2,  # by tests/docs/test_example_rotation.py
        "evaluation.md": 1,  # by tests/core/test_api.py
    }
