"""The plan of a run (`--dry-run`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.shipped import SMALL, build, shipped
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from robustbench_coss import registry
from robustbench_coss.encoders.base import multiply_accumulates
from robustbench_coss.pretrain.dry_run import (
    TRAINING_IMAGES,
    Images,
    Plan,
    Step,
    describe,
    duration,
    extrapolate,
    gigabytes,
    measure,
    saved_for_backward,
    state_bytes,
    training_images,
)
from robustbench_coss.pretrain.methods.base import build_optimizer
from robustbench_coss.pretrain.recipe import (
    Recipe,
    build_recipe,
)


def step(images: int, macs: int = 1, seconds: float = 1.0, memory: int = 1) -> Step:
    return Step(images, macs, seconds, memory)


@given(
    st.integers(1, 64), st.integers(1, 64), st.floats(0, 9), st.floats(0.01, 9), st.integers(1, 999)
)
def test_a_quantity_linear_in_the_batch_is_extrapolated_exactly(
    first: int, more: int, fixed: float, slope: float, images: int
) -> None:
    at = [step(n, seconds=fixed + slope * n) for n in (first, first + more)]
    expected = fixed + slope * images
    assert extrapolate(at[0], at[1], "seconds", images) == pytest.approx(expected, rel=1e-5)


def test_seconds_that_do_not_grow_are_taken_as_proportional() -> None:
    assert extrapolate(step(2, seconds=3.0), step(4, seconds=2.0), "seconds", 40) == 20


def test_what_is_kept_for_the_backward_pass_is_counted_once_without_weights() -> None:
    layer = nn.Linear(3, 5, bias=False)
    x = torch.randn(7, 3)
    with saved_for_backward(layer) as sizes:
        y = layer(x)
        z = torch.relu(y) * torch.relu(y)
    # x for the weight's gradient; each relu keeps its result, which the product keeps again.
    assert sorted(sizes) == [4 * 7 * 3, 4 * 7 * 5, 4 * 7 * 5]
    z.sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("optimizer", ["sgd", "lars", "adamw"])
def test_the_memory_of_state_is_that_of_tensors_after_a_step(optimizer: str) -> None:
    recipe = shipped("byol/cifar10-rf29-resnet18", optimizer={"name": optimizer}, **SMALL)
    method = build(recipe, 32)
    trained = [p for p in method.parameters() if p.requires_grad]
    real = build_optimizer(recipe.optimizer, [{"params": trained}], 0.1, fused=False)
    sum(p.sum() for p in trained).backward()  # type: ignore[union-attr]
    real.step()
    held = [*method.parameters(), *method.buffers(), *(p.grad for p in trained)]
    held += [
        t
        for state in real.state.values()
        for t in state.values()
        if isinstance(t, torch.Tensor) and t.dim() > 0  # AdamW's step counters are scalars
    ]
    assert state_bytes(method) == sum(t.numel() * t.element_size() for t in held)


def test_macs_of_a_supervised_step_are_three_forward_passes_but_for_the_pixels() -> None:
    recipe = shipped("supervised/cifar10-rf29-resnet18", **SMALL)
    method = build(recipe, 32, classes=10)
    forward = multiply_accumulates(method.encoder) + method.encoder.dim * 10
    first = 32 * 32 * method.encoder.conv1.weight.numel()  # type: ignore[union-attr, operator]
    for measured in measure(method, 32, 10, 8, cuda=False):
        # Nobody needs the gradient of the pixels, so the first layer has two passes.
        assert measured.macs == measured.images * (3 * forward - first)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("imagenet", 1_281_167 - 12_811),
        ("imagenet100", 126_689 - 1_266),
        ("tiny-imagenet", 90_000),
        ("stl10", 4_500),
        ("cifar10", 45_000),
        ("mnist", 54_000),
    ],
)
def test_published_sizes_less_what_is_held_out_serve_where_data_are_missing(
    name: str, count: int, tmp_path: Path
) -> None:
    found = training_images(Recipe(dataset=name), tmp_path)
    assert found.count == count
    assert f"not in {tmp_path}" in found.source
    limited = training_images(Recipe(dataset=name, limit=100), tmp_path)
    assert limited.count == 100


def test_images_that_are_there_are_counted(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part / "cat").mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (9, 9)).save(tmp_path / part / "cat" / f"{number}.png")
    found = training_images(Recipe(dataset="imagefolder"), tmp_path)
    assert (found.count, found.classes) == (18, 1)
    assert "as found in" in found.source


def test_every_data_set_that_has_to_be_fetched_has_a_published_size() -> None:
    own = {
        n for n in registry.names("dataset") if registry.origin("dataset", n) == "robustbench-coss"
    }
    assert own - set(TRAINING_IMAGES) == {"parts", "imagefolder"}


def plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "recipe": Recipe(dataset="cifar10", epochs=10, batch_size=100, accumulate=2),
        "precision": "32",
        "size": 32,
        "images": Images(1000, 10, "made up"),
        "steps_per_epoch": 10,
        "encoder_parameters": 2_000_000,
        "encoder_macs": 300_000_000,
        "trained": 5_000_000,
        "parameters": 9_000_000,
        "device": "a machine",
        "cuda": False,
        "small": Step(10, 10 * 10**9, 3.0, 2 * 2**30),
        "large": Step(20, 20 * 10**9, 4.0, 3 * 2**30),
    }
    return Plan(**(values | changes))


def test_a_plan_in_words_says_what_was_measured_and_what_follows() -> None:
    text = describe(plan())
    assert "steps of 10 and 20 images measured on a machine:" in text[0]
    found = dict(line.split(": ", 1) for line in text[1:])
    assert found["precision"] == "32"
    assert found["steps"] == "10 per epoch, 100 in all; 100 images each"
    # 2 s and 0.1 s an image; 1 G MACs an image; 1 GiB and 0.1 GiB an image, 50 at once.
    assert found["time"].startswith("12 s per step, 20 min in all; extrapolated from 4 s for 20")
    assert found["MACs per step"].startswith("0.1 T")
    assert found["memory"].startswith("6 GiB with 50 images at once")


def test_without_the_number_of_images_a_plan_asks_for_a_limit() -> None:
    text = "\n".join(describe(plan(images=Images(None, 0, "elsewhere"), steps_per_epoch=None)))
    assert "images: unknown" in text
    assert "--limit" in text
    assert "in all" not in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.25, "0.25 s"), (119, "119 s"), (720, "12 min"), (7200, "2 h"), (172_800, "2 days")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
    assert duration(1200 * 86_400) == "1,200 days"
    assert gigabytes(3 * 2**29) == "1.5 GiB"


def test_a_dry_run_prints_a_recipe_with_its_plan_and_writes_nothing(
    bench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = "co-byol/cifar10-rf29-resnet18"
    outcome = bench(
        "pretrain", "--recipe", recipe, "--dry-run", "--width", 1 / 16, "--batch-size", 8,
        "--device", "cpu",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert build_recipe(yaml.safe_load(outcome.out), "out") == shipped(
        recipe, width=1 / 16, batch_size=8
    )
    assert "# steps: 5,625 per epoch, 1,125,000 in all; 8 images each\n" in outcome.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--method supervised --dataset imagefolder", "needs the number of classes of imagefolder"),
        ("--dataset stl10 --batch-size 5000", "4500 training images do not fill one batch of 5000"),
        ("--arch rf98_resnet50", "unknown encoder 'rf98_resnet50'"),
    ],
)
def test_a_dry_run_of_what_cannot_run_is_refused_in_one_line(
    bench: Callable[..., Any], tmp_path: Path, arguments: str, message: str
) -> None:
    outcome = bench("pretrain", "--dry-run", "--data-root", tmp_path, *arguments.split())
    assert outcome.code == 1
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
