"""Encoders as ONNX."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from helpers.bench import Bench, Outcome
from helpers.exported import assert_same, pictures, run_lines
from torch import Tensor

from robustbench_coss.encoders.base import Encoder
from robustbench_coss.errors import CossError
from robustbench_coss.models import export as module
from robustbench_coss.models.checkpoint import (
    Checkpoint,
    load_checkpoint,
)
from robustbench_coss.models.export import FORMATS, Export, export
from robustbench_coss.testing import TinyEncoder


def test_onnx_gives_the_global_and_local_representations_of_any_batch(
    narrow: Path, onnx_export: Export
) -> None:
    onnx.checker.check_model(onnx_export.path, full_check=True)
    encoder = load_checkpoint(narrow).encoder
    for count in (1, 2, 5):
        images = pictures(count, 32)
        found = run_lines(onnx_export.lines, images)
        with torch.inference_mode():
            local = encoder.local(images)
            features = encoder.pool(local)
        assert found["features"].shape == (count, 64)
        for mine, theirs in ((features, found["features"]), (local, found["local"])):
            scale = float(mine.abs().max())
            torch.testing.assert_close(torch.from_numpy(theirs), mine, rtol=0, atol=1e-5 * scale)


def test_onnx_takes_pixels_and_normalises_them_itself(onnx_export: Export) -> None:
    session = onnxruntime.InferenceSession(onnx_export.path)
    (given,) = session.get_inputs()
    assert (given.name, given.shape, given.type) == (
        "images",
        ["batch", 3, 32, 32],
        "tensor(float)",
    )
    assert [out.name for out in session.get_outputs()] == ["features", "local"]
    first = onnx.load(onnx_export.path).graph.node[0]
    assert "images" in first.input
    assert first.op_type == "Sub"  # the mean


class Branching(TinyEncoder):
    """An encoder whose graph depends on values, as third parties may write."""

    def local(self, x: Tensor) -> Tensor:
        return super().local(x if x.sum() > 0 else -x)


def checkpoint_of(encoder: Encoder) -> Checkpoint:
    return Checkpoint(encoder.eval(), "tiny", Path("tiny"), "0" * 64, {"arch": "tiny"})


def test_an_encoder_that_onnx_cannot_express_is_one_line() -> None:
    with pytest.raises(CossError, match="cannot express tiny in ONNX"):
        FORMATS["onnx"].content(checkpoint_of(Branching()))


def test_an_encoder_of_another_package_becomes_onnx(tmp_path: Path) -> None:
    encoder = TinyEncoder().eval()
    images = pictures(3, 32)
    content = FORMATS["onnx"].content(checkpoint_of(encoder))
    (features,) = onnxruntime.InferenceSession(content).run(
        ["features"], {"images": images.numpy()}
    )
    with torch.inference_mode():
        assert_same(torch.from_numpy(features), encoder(images))


def test_without_the_onnx_packages_the_command_names_the_extra(
    bench: Bench, narrow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    out = tmp_path / "net.onnx"
    assert bench("export", narrow, "--format", "onnx", "--out", out) == Outcome(
        1,
        "",
        "error: --format onnx needs the packages onnx and onnxscript; "
        "pip install 'robustbench-coss[onnx]'\n",
    )
    assert not out.exists()


def test_weights_beyond_what_an_onnx_file_holds_are_refused(
    narrow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ONNX_LIMIT", 1000)
    with pytest.raises(CossError, match=r"less than 2 GiB.*; use --format timm$"):
        export(narrow, "onnx")
