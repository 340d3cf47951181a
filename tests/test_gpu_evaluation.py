"""What of an evaluation's precision and of reading pictures only a CUDA device can show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.picture_files import CLASSES, write_pictures
from torch import nn
from torch.nn import functional as F

from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.datasets.decoded import Decoded
from robustbench_coss.datasets.folder import FolderSet
from robustbench_coss.evaluations.probes.features import OnDevice, batches
from robustbench_coss.evaluations.running.precision import Arithmetic, lowered
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.machine.precision import tf32
from robustbench_coss.models.checkpoint import Checkpoint, build_encoder
from robustbench_coss.records.record import Record

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA = torch.device("cuda")


@pytest.mark.parametrize("what", ["convolution", "product"])
def test_without_tf32_products_are_those_of_32_bit_and_with_it_they_are_not(what: str) -> None:
    draw = torch.Generator().manual_seed(0)
    x, w = (torch.randn(64, 64, 3, 3, generator=draw, dtype=torch.float64) for _ in range(2))

    def compute(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if what == "convolution":
            return F.conv2d(one, other, padding=1)
        return one.flatten(1) @ other.flatten(1).T

    exact, errors = compute(x, w), {}
    for allowed in (False, True):
        with tf32(allowed):
            found = compute(x.float().cuda(), w.float().cuda()).cpu().double()
        errors[allowed] = float((found - exact).norm() / exact.norm())
    assert errors[False] < 2.0**-20  # of 2^-24 per factor
    assert 2.0**-14 < errors[True] < 2.0**-9  # of 2^-11 per factor


@pytest.fixture(scope="module")
def model() -> Checkpoint:
    """A classifier of generated pictures after some steps of training."""
    torch.manual_seed(0)
    encoder = build_encoder("rf29_resnet18", size=32, width=0.25)
    network = nn.Sequential(encoder, nn.Linear(encoder.dim, 10)).cuda()
    data = open_dataset("parts", "train", size=32)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for step in range(200):
        chosen = range(40 * step, 40 * (step + 1))
        images, labels = data.images(chosen).cuda() / 255, data.labels[list(chosen)].cuda()
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.cpu().eval()
    meta = {"arch": "rf29_resnet18", "width": 0.25, "size": 32, "dataset": "parts"}
    return Checkpoint(encoder, "trained", None, "a" * 64, meta, network[1], 10)


def measure(model: Checkpoint, results: Path, **how: Any) -> Record:
    options = {"crop": {"areas": [0.3, 0.5]}}
    request = Evaluation("crop", results=results, device="cuda", limit=4000, options=options, **how)
    (record,) = evaluate_run(lambda: model, request).values()
    return record


@pytest.mark.parametrize(
    ("asked", "points"), [("tf32", 0.3), ("fp16", 0.3), ("auto", 0.3), ("bf16", 1.0)]
)
def test_precisions_of_a_gpu_hardly_move_shares(
    model: Checkpoint, tmp_path: Path, asked: str, points: float
) -> None:
    full, other = measure(model, tmp_path), measure(model, tmp_path, precision=asked)
    assert full.arithmetic() == "32"
    assert other.arithmetic() in (("fp16", "32") if asked == "auto" else (asked,))
    assert full.cells[0].outcomes["correct"].mean() > 0.5
    for metric in full.metrics:
        moved = 100 * abs(full.per_sample(metric).mean() - other.per_sample(metric).mean())
        assert moved <= points, metric.name


def test_a_model_compiled_for_a_gpu_gives_its_answers(model: Checkpoint, tmp_path: Path) -> None:
    full, compiled = measure(model, tmp_path), measure(model, tmp_path, compile=True)
    assert compiled.compiled
    for one, other in zip(full.cells, compiled.cells, strict=True):
        assert (one.outcomes["correct"] != other.outcomes["correct"]).mean() < 0.005


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_computes_in_half_and_gives_32_bit(
    model: Checkpoint, precision: Any
) -> None:
    encoder = model.encoder.cuda()
    images = torch.rand(64, 3, 32, 32, device=CUDA)
    with torch.inference_mode(), tf32(False):
        exact, found = encoder(images), lowered(encoder, Arithmetic(precision))(images)
    assert found.dtype == torch.float32
    error = float((found - exact).norm() / exact.norm())
    bits = {"bf16": 8, "fp16": 11}[precision]
    assert 2.0 ** -(bits + 3) < error < 2.0**-bits * 20


@pytest.mark.parametrize("wrapped", [False, True])
def test_pictures_on_their_way_to_the_gpu_stay_what_they_are(tmp_path: Path, wrapped: bool) -> None:
    for part in ("train", "val"):
        write_pictures(tmp_path / part, CLASSES, 40)
    images = open_dataset("imagefolder", "test", root=tmp_path, size=64)
    assert isinstance(images, FolderSet)
    order = list(range(len(images)))
    pixels = Decoded(images, order) if wrapped else None
    expected, kept = images.images(order), OnDevice(CUDA)
    kept.left = 40 * 3 * 64 * 64  # two batches of 16
    busy = torch.rand(2048, 2048, device=CUDA)
    for _ in range(3):
        found = []
        for batch in batches(images, order, 16, CUDA, pixels, kept):
            busy = busy @ busy.clamp(0, 1e-3)  # work that the copies run beside
            found.append((batch.images * 255).round().to(torch.uint8))
        assert torch.equal(torch.cat(found).cpu(), expected)
    assert len(kept.batches) == 2
    assert np.isfinite(float(busy.sum()))
