"""Folders of transformers: `AutoModel` gives the encoder's features, and they are read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.bench import Bench
from helpers.exported import as_if_trained, assert_same, make_run, pictures, run_lines
from PIL import Image
from torchvision.transforms.functional import to_tensor

from robustbench_coss.errors import CossError
from robustbench_coss.files import sha256_of
from robustbench_coss.models.checkpoint import build_encoder, load_checkpoint, save_encoder
from robustbench_coss.models.export import export
from robustbench_coss.models.load import load_model

transformers = pytest.importorskip("transformers")


def plain(folder: Path, arch: str, width: float = 1.0, size: int = 72) -> Path:
    """A run whose encoder has ImageNet's stem and no MLP."""
    encoder = as_if_trained(build_encoder(arch, size=size, width=width, mlp=False))
    stated = {"arch": arch, "size": size, "width": width, "method": "co-byol", "mlp": False}
    save_encoder(folder / "encoder.safetensors", encoder, stated)
    return folder


@pytest.mark.parametrize(
    ("arch", "width"), [("resnet18", 1.0), ("resnet18", 1 / 8), ("rf99_resnet50", 1 / 16)]
)
def test_automodel_gives_the_features_of_the_encoder(
    tmp_path: Path, arch: str, width: float
) -> None:
    size = 96
    done = export(plain(tmp_path / "run", arch, width, size), "hf")
    encoder = load_checkpoint(tmp_path / "run").encoder
    images = pictures(3, size)
    with torch.inference_mode():
        expected = encoder(images)
    assert_same(run_lines(done.lines, images)["features"], expected)
    _, told = transformers.AutoModel.from_pretrained(done.path, output_loading_info=True)
    assert [told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")] == [
        set(),
        set(),
        set(),
    ]
    again = load_model(done.path)
    with torch.inference_mode():
        assert_same(again.encoder(images), expected)
    assert list(again.encoder.stages()) == ["stage1", "stage2", "stage3", "stage4"]


def test_its_processor_makes_the_pixels_that_the_encoder_is_measured_with(tmp_path: Path) -> None:
    folder = export(plain(tmp_path / "run", "resnet18", 1 / 8), "hf").path
    encoder = load_checkpoint(tmp_path / "run").encoder
    noise = np.random.default_rng(0).integers(256, size=(11, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((130, 150), Image.Resampling.BICUBIC)
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    found = processor(picture, return_tensors="pt")["pixel_values"]
    cut = encoder.input.geometry.cut(picture, 72)
    torch.testing.assert_close(found, encoder.normalise(to_tensor(cut)[None]), rtol=0, atol=1e-4)
    read = load_model(folder).encoder.input
    assert (read.mean, read.std) == (encoder.input.mean, encoder.input.std)
    assert read.geometry.stored(72) == encoder.input.geometry.stored(72) == {}


def test_the_folder_says_where_it_comes_from(tmp_path: Path) -> None:
    folder = export(plain(tmp_path / "run", "resnet18", 1 / 16), "hf").path
    stated = json.loads((folder / "config.json").read_text())["robustbench-coss"]
    assert stated["sha256"] == sha256_of(tmp_path / "run" / "encoder.safetensors")
    assert (stated["arch"], stated["method"], stated["size"]) == ("resnet18", "co-byol", 72)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(files) == {"config.json", "model.safetensors", "preprocessor_config.json"}
    other = export(tmp_path / "run", "hf", tmp_path / "other").path
    assert {path.name: path.read_bytes() for path in other.iterdir()} == files


def test_what_transformers_has_no_architecture_for_is_refused_with_what_can_hold_it(
    tmp_path: Path,
) -> None:
    make_run(tmp_path / "mlp", "rf99_resnet50", 72, 1 / 16)
    make_run(tmp_path / "bagnet", "bagnet17", 32, 1 / 16)
    plain(tmp_path / "small", "resnet18", 1 / 16, size=32)
    for name, says in (("mlp", "no MLP"), ("bagnet", "not bagnet17"), ("small", "small one")):
        with pytest.raises(CossError, match=says) as caught:
            export(tmp_path / name, "hf")
        assert "; use --format " in str(caught.value)
        assert not (tmp_path / name / "encoder-hf").exists()


def test_a_folder_is_replaced_only_when_asked_and_other_files_stay(
    tmp_path: Path, bench: Bench
) -> None:
    run = plain(tmp_path / "run", "resnet18", 1 / 16)
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("mine")
    said = bench("export", run, "--format", "hf", "--out", out)
    assert said.code == 0
    assert 'AutoModel.from_pretrained("' in said.out
    refused = bench("export", run, "--format", "hf", "--out", out)
    assert refused.code == 1
    assert "pass --force to replace it" in refused.err
    assert bench("export", run, "--format", "hf", "--out", out, "--force").code == 0
    assert (out / "README.md").read_text() == "mine"
    for taken in (run / "encoder.safetensors", out / "README.md"):
        with pytest.raises(CossError, match="is a file; pass a folder"):
            export(run, "hf", taken)


def test_the_page_shows_the_lines_that_are_printed(tmp_path: Path) -> None:
    export(plain(tmp_path / "run", "resnet18", size=96), "hf")
    done = export(tmp_path / "run", "hf", force=True)
    page = (ROOT / "docs" / "export.md").read_text()
    assert done.lines.replace(str(done.path), "runs/supervised/encoder-hf") in page
