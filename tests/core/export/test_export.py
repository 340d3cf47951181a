"""Exported encoders: other libraries, reading the file by the printed lines, give its features."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from helpers import ROOT
from helpers.bench import Bench, Outcome
from helpers.exported import as_if_trained, assert_same, make_run, pictures, run_lines
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.utils.benchmarking import LinearClassifier
from safetensors import safe_open
from torch import Tensor

from robustbench_coss import registry
from robustbench_coss.encoders.base import InputSpec
from robustbench_coss.encoders.resnet import RESNET18, RESNET50, ResNet, full_kernels
from robustbench_coss.errors import CossError
from robustbench_coss.files import sha256_of
from robustbench_coss.models import export as module
from robustbench_coss.models.checkpoint import (
    Checkpoint,
    build_encoder,
    load_checkpoint,
    save_encoder,
)
from robustbench_coss.models.export import FORMATS, Export, export
from robustbench_coss.models.export_source import source

PAGE = ROOT / "docs" / "export.md"
TORCH_FORMATS = ("torchvision", "timm", "lightly")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of width 1, which every format holds; no test writes into its folder."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    make_run(folder, "rf29_resnet18", 32, dataset="parts")
    return folder


# ---- torchvision, timm, lightly ----


@pytest.mark.parametrize(
    ("name", "arch", "size"),
    [
        ("torchvision", "resnet18", 72),
        ("torchvision", "rf29_resnet18", 32),
        ("torchvision", "rf99_resnet50", 72),
        ("timm", "rf29_resnet18", 32),
        ("timm", "timm:resnet10t", 64),
        ("timm", "timm:vit_tiny_patch16_224", 64),
    ],
)
def test_the_library_gives_the_features_of_the_original(
    name: str, arch: str, size: int, tmp_path: Path
) -> None:
    encoder = make_run(tmp_path, arch, size)
    images = pictures(2, size)
    found = run_lines(export(tmp_path, name).lines, images)
    with torch.inference_mode():
        assert_same(found["features"], encoder(images))
    assert type(found["model"]).__module__.startswith(f"{name}.models.")


@pytest.mark.parametrize(
    ("arch", "size", "width"),
    [
        ("resnet18", 72, 1 / 4),
        ("rf29_resnet18", 32, 1 / 8),
        ("resnet50", 32, 0.1),
        ("rf99_resnet50", 72, 1 / 8),
        ("rf29_resnet18", 32, 1.005),  # 64 channels in the stem, but 129 in stage 2
    ],
)
def test_timm_holds_other_widths(arch: str, size: int, width: float, tmp_path: Path) -> None:
    encoder = make_run(tmp_path, arch, size, width)
    images = pictures(2, size)
    found = run_lines(export(tmp_path, "timm").lines, images)
    with torch.inference_mode():
        assert_same(found["features"], encoder(images))


kernel = st.sampled_from([1, 3])
basic = st.tuples(*[st.tuples(*[st.tuples(kernel, kernel)] * n) for n in RESNET18.blocks])
bottleneck = st.tuples(*[st.tuples(*[st.tuples(kernel)] * n) for n in RESNET50.blocks])


@settings(max_examples=12, deadline=None)
@given(
    st.one_of(st.tuples(st.just(RESNET18), basic), st.tuples(st.just(RESNET50), bottleneck)),
    st.sampled_from(["cifar", "imagenet"]),
    st.sampled_from([0, 24]),
    st.integers(9, 40),
)
def test_any_choice_of_1x1_convolutions_is_an_ordinary_resnet(
    net: Any, stem: Any, hidden: int, size: int
) -> None:
    layout, kernels = net
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = as_if_trained(ResNet(layout, kernels, InputSpec(size), stem, 1 / 8, hidden))
    stated = {"arch": "any", "size": size, "width": 1 / 8}
    checkpoint = Checkpoint(encoder, "any", Path("any"), "0", stated)
    lines = FORMATS["timm"].lines(checkpoint, Path("any"))
    state = module.resnet_state(encoder)
    loaded = lines.replace('load_file("any")', "state")
    images = pictures(2, size)
    names: dict[str, Any] = {"images": images, "state": state}
    exec(loaded, names)
    with torch.inference_mode():
        expected = encoder(images)
    # Rounding of deep nets; another kernel, stride or padding moves features by their own size.
    torch.testing.assert_close(
        names["features"], expected, rtol=0, atol=1e-4 * float(expected.abs().max())
    )


def test_the_checkpoint_for_lightly_loads_into_a_module_with_a_backbone(run: Path) -> None:
    done = export(run, "lightly", force=True)
    images = pictures(2, 32)
    found = run_lines(done.lines, images)
    with torch.inference_mode():
        assert_same(found["features"], load_checkpoint(run).encoder(images))
    model = found["model"]
    stored = torch.load(done.path, weights_only=True)
    assert set(stored["state_dict"]) == {f"backbone.{key}" for key in model.state_dict()}
    # lightly's linear evaluation, as its ImageNet benchmarks use it: it calls `model` for features.
    classifier = LinearClassifier(model, 2, feature_dim=512, num_classes=10).eval()
    logits = classifier(images)
    expected = classifier.classification_head(model(images))
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "hf"])
def test_an_export_says_where_it_comes_from(
    name: str, narrow: Path, run: Path, onnx_export: Export
) -> None:
    folder = narrow if name in ("timm", "onnx") else run
    path = onnx_export.path if name == "onnx" else export(folder, name, force=True).path
    if name == "timm":
        with safe_open(path, "pt") as opened:
            stated = json.loads(opened.metadata()["robustbench-coss"])
    elif name == "onnx":
        stated = {p.key: p.value for p in onnx.load(path).metadata_props}
    else:
        stated = torch.load(path, weights_only=True)["robustbench-coss"]
    expected: dict[str, Any] = {
        "arch": "rf29_resnet18",
        "width": 1 / 8,
        "size": 32,
        "method": "dino",
        "encoder": "teacher",
        "sha256": sha256_of(narrow / "encoder.safetensors"),
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    if folder is run:
        expected |= {"width": 1.0, "method": "co-byol", "encoder": "online", "dataset": "parts"}
        expected["sha256"] = sha256_of(run / "encoder.safetensors")
    if name == "onnx":  # its values are text
        expected = {k: v if isinstance(v, str) else json.dumps(v) for k, v in expected.items()}
    assert stated == expected


@pytest.mark.parametrize("name", TORCH_FORMATS)
def test_equal_encoders_give_equal_files(name: str, run: Path, tmp_path: Path) -> None:
    one, two = (export(run, name, tmp_path / file).path.read_bytes() for file in "ab")
    assert one == two


# ---- what cannot be expressed ----


def test_a_width_that_torchvision_has_not_is_refused_with_the_formats_that_do(
    bench: Bench, narrow: Path
) -> None:
    for name in ("torchvision", "lightly"):
        outcome = bench("export", narrow, "--format", name)
        assert (outcome.code, outcome.out) == (1, "")
        (line,) = outcome.err.splitlines()
        assert "width 1 only" in line
        assert line.endswith("; use --format timm or onnx")


class Sharpened(ResNet):
    """A ResNet with another forward pass, as third parties may derive."""

    def local(self, x: Tensor) -> Tensor:
        return super().local(x) ** 2


def test_a_network_that_only_resembles_a_resnet_is_refused_by_name() -> None:
    net = Sharpened(RESNET18, full_kernels(RESNET18), InputSpec(32), "cifar", 1.0)
    for name in TORCH_FORMATS:
        assert "sharpened" in str(FORMATS[name].refuses(net, "sharpened"))
    assert FORMATS["onnx"].refuses(net, "sharpened") is None


@pytest.mark.parametrize("arch", registry.names("encoder"))
def test_every_encoder_is_an_ordinary_resnet_or_refused_by_name(arch: str) -> None:
    encoder = build_encoder(arch, size=64, width=1 / 16)
    reason = FORMATS["timm"].refuses(encoder, arch)
    assert (reason is None) == bool(re.fullmatch(r"(rf\d+_)?resnet\d+", arch)), reason
    assert reason is None or arch in reason


# ---- files ----


def test_the_default_file_lies_beside_the_encoder_and_nothing_is_overwritten_unasked(
    bench: Bench, tmp_path: Path
) -> None:
    make_run(tmp_path / "run", "resnet18", 32, 1 / 16)
    written = tmp_path / "run" / "encoder-timm.safetensors"
    assert bench("export", tmp_path / "run", "--format", "timm").code == 0
    kept = written.read_bytes()
    make_run(tmp_path / "run", "resnet18", 32, 1 / 8)
    again = bench("export", tmp_path / "run", "--format", "timm")
    assert again == Outcome(
        1, "", f"error: {written} exists; pass --force to replace it, or another --out\n"
    )
    assert written.read_bytes() == kept
    assert bench("export", tmp_path / "run", "--format", "timm", "--force").code == 0
    assert written.read_bytes() != kept


def test_the_encoder_itself_is_never_replaced(tmp_path: Path) -> None:
    make_run(tmp_path, "resnet18", 32, 1 / 16)
    encoder = tmp_path / "encoder.safetensors"
    before = encoder.read_bytes()
    (tmp_path / "link.safetensors").symlink_to(encoder)
    for out in (encoder, tmp_path / "link.safetensors"):
        with pytest.raises(CossError, match="is the encoder to be exported"):
            export(tmp_path, "timm", out, force=True)
    assert encoder.read_bytes() == before


def test_users_errors_are_one_line(bench: Bench, run: Path, tmp_path: Path) -> None:
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "last.ckpt").write_bytes(b"")
    (tmp_path / "file").write_text("in the way")
    for arguments, expected in (
        ((run, "--format", "torchvison"), "unknown format 'torchvison'; did you mean torchvision?"),
        ((run, "--format", "caffe"), "unknown format 'caffe'; known: hf, lightly, onnx"),
        ((tmp_path / "unfinished", "--format", "timm"), "has not finished"),
        ((tmp_path / "nothing", "--format", "timm"), "does not exist"),
        ((run, "--format", "timm", "--out", tmp_path), "is a folder; pass a file as --out"),
        ((run, "--format", "timm", "--out", tmp_path / "file" / "x"), "a file is in the way"),
    ):
        outcome = bench("export", *arguments)
        assert (outcome.code, outcome.out) == (1, "")
        (line,) = outcome.err.splitlines()
        assert line.startswith("error: ")
        assert expected in line


def test_a_teacher_is_named_as_one(bench: Bench, narrow: Path, tmp_path: Path) -> None:
    out = tmp_path / "file"
    first = bench("export", narrow, "--format", "timm", "--out", out).out.splitlines()[0]
    assert first == f"wrote {out}: teacher encoder of dino, rf29_resnet18, 64 features"


def test_an_encoder_from_elsewhere_has_no_role_to_state(bench: Bench, tmp_path: Path) -> None:
    encoder = build_encoder("resnet18", size=32, width=1 / 16)
    path = tmp_path / "mine.safetensors"
    save_encoder(path, encoder, {"arch": "resnet18", "size": 32, "width": 1 / 16})
    outcome = bench("export", path, "--format", "timm")
    assert outcome.out.splitlines()[0] == (
        f"wrote {tmp_path}/mine-timm.safetensors: encoder, resnet18, 32 features"
    )
    assert "encoder" not in source(load_checkpoint(path))


def test_the_cost_of_padding_kernels_is_stated_only_where_kernels_are_padded(
    narrow: Path, onnx_export: Export, tmp_path: Path
) -> None:
    assert "29 px" in export(narrow, "timm", force=True).note
    assert onnx_export.note == ""
    make_run(tmp_path, "resnet18", 32, 1 / 16)
    assert export(tmp_path, "timm").note == ""


# ---- documentation ----


def test_the_lines_in_the_documentation_are_those_printed_and_work(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make_run(tmp_path / "runs" / "co-byol", "rf29_resnet18", 32)
    monkeypatch.chdir(tmp_path)
    images = pictures(4, 32)
    with torch.inference_mode():
        expected = encoder(images)
    shown = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"images": images}
    for name in FORMATS:
        if name == "hf":  # of another encoder: test_export_hf.py
            shown = [lines for lines in shown if "transformers" not in lines]
            continue
        outcome = bench("export", "runs/co-byol", "--format", name)
        assert (outcome.code, outcome.err) == (0, "")
        lines = outcome.out.split("load it with:\n\n")[1]
        assert lines in shown
        names.pop("features", None)
        exec(lines, names)
        assert_same(torch.as_tensor(names["features"]), expected)
        shown.remove(lines)
    (uses,) = shown  # what follows lightly's lines
    exec(uses, names)
    assert isinstance(names["classifier"], LinearClassifier)
