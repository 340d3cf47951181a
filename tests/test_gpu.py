"""What only a CUDA device can show: the same results as on the CPU, within a tolerance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file

from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes.linear import ProbeConfig
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.pretrain.dry_run import make_plan
from robustbench_coss.pretrain.monitors import Watch
from robustbench_coss.pretrain.recipe import build_recipe
from robustbench_coss.pretrain.train import pretrain
from robustbench_coss.pretrain.views import ViewOptions, make_views

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_views_are_those_of_the_cpu() -> None:
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (16, 3, 32, 32), generator=draws, dtype=torch.uint8)
    options = ViewOptions(solarize=(0.0, 0.0))  # a threshold: rounding may flip a pixel
    here = make_views(images, range(16), 0, 0, 2, options)
    there = make_views(images.cuda(), range(16), 0, 0, 2, options)
    for one, two in zip(here, there, strict=True):
        torch.testing.assert_close(two.cpu(), one, rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_run_trained_on_the_gpu_is_measured_alike_on_gpu_and_cpu(
    precision: str, tmp_path: Path
) -> None:
    recipe = build_recipe(
        {
            "width": 0.125,
            "epochs": 2,
            "limit": 512,
            "batch_size": 64,
            "precision": precision,
            "options": {"hidden": 64, "dim": 32},
        },
        "test",
    )
    pretrain(recipe, tmp_path / "run", device="cuda")
    outcomes = []
    for device in ("cuda", "cpu"):
        probe = ProbeConfig(max_train=500)
        results = tmp_path / device
        asked = Evaluation("crop", results=results, limit=200, device=device, probe=probe)
        (record,) = evaluate_run(tmp_path / "run", asked).values()
        outcomes.append(np.stack([cell.outcomes["correct"] for cell in record.cells]))
    # Rounding differs between the devices, in the probe's training too: 2 % of verdicts may.
    assert (outcomes[0] != outcomes[1]).mean() < 0.02


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
def test_one_step_of_every_optimiser_with_clipping(
    optimizer: str, precision: str, tmp_path: Path
) -> None:
    one_step(tmp_path, precision=precision, optimizer={"name": optimizer, "clip": 1.0})


def test_one_step_of_compiled_stages_is_one_of_plain_ones(tmp_path: Path) -> None:
    plain = one_step(tmp_path / "plain")
    compiled = one_step(tmp_path / "compiled", compiled=True)
    assert plain.keys() == compiled.keys()
    for name, weight in plain.items():
        torch.testing.assert_close(compiled[name], weight, rtol=1e-2, atol=1e-3)


def test_fused_optimisers_and_channels_last_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(self: Watch, trainer: pl.Trainer, method: pl.LightningModule, *more: object) -> None:
        weight = next(p for p in method.parameters() if p.dim() == 4 and p.shape[1] > 1)
        channels_last = weight.is_contiguous(memory_format=torch.channels_last)
        seen.append((trainer.optimizers[0].defaults["fused"], channels_last, weight.device.type))

    monkeypatch.setattr(Watch, "on_train_batch_end", look)
    one_step(tmp_path)
    assert seen == [(True, True, "cuda")]


@pytest.mark.parametrize("method", ["co-byol", "simclr", "co-mocov3"])
@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_no_step_waits_for_the_gpu(
    method: str, optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first steps make buffers, and the last reads the loss.
    plain = Watch.on_train_batch_end

    def look(self: Watch, trainer: pl.Trainer, *more: Any) -> None:
        plain(self, trainer, *more)
        number = more[-1]
        torch.cuda.set_sync_debug_mode("error" if 2 <= number <= 6 else "default")

    monkeypatch.setattr(Watch, "on_train_batch_end", look)
    values = {"method": method, "width": 0.125, "epochs": 1, "limit": 640, "batch_size": 64}
    options = {"hidden": 64, "dim": 32}
    recipe = build_recipe(values | {"options": options, "optimizer": {"name": optimizer}}, "test")
    try:
        pretrain(recipe, tmp_path / "run", device="cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")


def one_step(out: Path, compiled: bool = False, **changes: Any) -> dict[str, torch.Tensor]:
    """Weights after one step of CO-BYOL on the GPU."""
    values = {"width": 0.125, "epochs": 1, "limit": 64, "batch_size": 64}
    recipe = build_recipe(values | {"options": {"hidden": 64, "dim": 32}} | changes, "test")
    weights = load_file(pretrain(recipe, out / "run", device="cuda", compiled=compiled))
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    return weights


def test_out_of_memory_says_what_to_lower(tmp_path: Path) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.01)  # less than the activations of these batches
    recipe = build_recipe({"epochs": 1, "limit": 512, "batch_size": 512, "size": 64}, "test")
    try:
        with pytest.raises(CossError, match=r"--batch-size.*accumulate=2"):
            pretrain(recipe, tmp_path / "run", device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_dry_run_measures_the_gpu() -> None:
    recipe = build_recipe({"batch_size": 64, "precision": "bf16"}, "test")
    plan = make_plan(recipe, device="cuda")
    assert plan.cuda
    assert plan.device == torch.cuda.get_device_name()
    assert plan.seconds > 0
    assert plan.memory > 0


@pytest.mark.parametrize("suite", ["corruption", "occlusion", "redundancy", "adversarial"])
def test_a_suite_measures_alike_on_gpu_and_cpu(suite: str, tmp_path: Path) -> None:
    one_step(tmp_path)
    cells = []
    for device in ("cuda", "cpu"):
        probe = ProbeConfig(max_train=200)
        asked = Evaluation(suite, results=tmp_path / device, limit=32, device=device, probe=probe)
        (record,) = evaluate_run(tmp_path / "run", asked).values()
        cells.append(record.cells)
    assert [cell.condition for cell in cells[0]] == [cell.condition for cell in cells[1]]
    differing = [
        (one.outcomes[name] != other.outcomes[name]).mean()
        for one, other in zip(*cells, strict=True)
        for name in one.outcomes.keys() & other.outcomes.keys()
        if one.outcomes[name].dtype == bool
    ]
    assert differing
    assert np.mean(differing) < 0.05
