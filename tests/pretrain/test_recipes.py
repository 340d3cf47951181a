"""Shipped recipes, how they are composed, and the plan of a run (`--dry-run`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st
from lightly.loss import NegativeCosineSimilarity
from PIL import Image
from torch import nn

from robustbench_coss import registry
from robustbench_coss.datasets.base import ImageSet, open_dataset
from robustbench_coss.encoders.resnet import multiply_accumulates
from robustbench_coss.errors import CossError
from robustbench_coss.models.checkpoint import build_encoder, load_checkpoint
from robustbench_coss.pretrain.data import training_loader
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
from robustbench_coss.pretrain.methods.base import Method, build_optimizer
from robustbench_coss.pretrain.methods.losses import BYOLLoss
from robustbench_coss.pretrain.recipe import (
    Recipe,
    build_recipe,
    differing_keys,
    dump_recipe,
    merge,
    read_recipe,
    shipped_recipes,
)
from robustbench_coss.pretrain.train import pretrain

DOCS = ROOT / "docs"
LARGE = ("imagenet1k", "imagenet100")
ARCHITECTURES = {
    "imagenet1k": ("resnet50", "rf99-resnet50"),
    "imagenet100": ("resnet18", "resnet50", "rf99-resnet50"),
    **dict.fromkeys(
        ("cifar10", "cifar100", "fashion-mnist", "stl10", "tiny-imagenet"),
        ("resnet18", "rf29-resnet18"),
    ),
}
METHODS = [f"{co}{m}" for m in ("byol", "dino", "mocov3", "simclr") for co in ("", "co-")]
METHODS.append("supervised")
FLAT = [name for name in shipped_recipes() if "/" not in name]
SMALL = {"width": 1 / 16, "epochs": 1, "batch_size": 8, "limit": 8, "precision": "32"}


def shipped(name: str, **changes: Any) -> Recipe:
    return build_recipe(merge(read_recipe(name), changes), name)


# ---- names and composition ----


def test_every_family_has_every_method_for_each_of_its_architectures() -> None:
    expected = [
        f"{method}/{family}-{arch}"
        for family, archs in ARCHITECTURES.items()
        for arch in archs
        for method in [*METHODS, *(("byol-mc", "dino-mc") if family in LARGE else ())]
    ]
    assert shipped_recipes() == sorted([*expected, *FLAT])
    assert {"quickstart", "fashion-mnist-cpu"} <= set(FLAT)


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_is_valid_and_names_what_is_registered(name: str) -> None:
    recipe = shipped(name)
    registry.load("method", recipe.method).Options.model_validate(recipe.options)
    assert recipe.arch in registry.names("encoder") or recipe.arch.startswith("timm:")
    assert recipe.dataset in registry.names("dataset")
    assert build_recipe(yaml.safe_load(dump_recipe(recipe)), "again") == recipe
    if name not in FLAT:
        method, _, setting = name.partition("/")
        assert recipe.method == method
        assert setting.endswith(recipe.arch.replace("_", "-"))
        assert setting.startswith(recipe.dataset)  # "imagenet1k" is the data set "imagenet"


@pytest.mark.parametrize("name", [n for n in shipped_recipes() if n.startswith("co-")])
def test_a_co_recipe_is_its_base_recipe_and_the_weight_of_the_local_term(name: str) -> None:
    recipe = shipped(name)
    assert differing_keys(recipe, shipped(name.removeprefix("co-"))) == ["method", "options.w_s"]
    assert recipe.options["w_s"] == 0.3


@pytest.mark.parametrize("setting", ["imagenet1k-resnet50", "imagenet100-resnet18"])
@pytest.mark.parametrize("base", ["byol", "dino"])
def test_a_multi_crop_recipe_differs_in_crops_alone(base: str, setting: str) -> None:
    recipe = shipped(f"{base}-mc/{setting}")
    changed = differing_keys(recipe, shipped(f"{base}/{setting}"))
    assert set(changed) <= {"method", "views.min_crop"}
    views = recipe.views
    crops = (views.min_crop, views.local_crops, views.local_min_crop, views.local_max_crop)
    assert crops == (0.14, 6, 0.05, 0.14)


@pytest.mark.parametrize("method", METHODS)
def test_cifar100_is_cifar10_on_other_images(method: str) -> None:
    one, two = shipped(f"{method}/cifar10-resnet18"), shipped(f"{method}/cifar100-resnet18")
    assert differing_keys(one, two) == ["dataset"]


@pytest.mark.parametrize("method", METHODS)
def test_what_a_data_set_asks_for_wins_over_a_methods_inherited_values(method: str) -> None:
    small = shipped(f"{method}/cifar10-resnet18")
    assert small.views.blur == (0, 0)
    assert small.optimizer.name == "sgd"
    assert small.optimizer.clip is None
    assert shipped(f"{method}/fashion-mnist-resnet18").views.min_crop == 0.5


@pytest.mark.parametrize(
    ("name", "peak", "batch"),
    [  # Learning rates as the sources state them, for their batch.
        ("byol/imagenet1k-resnet50", 0.45 * 16, 4096),
        ("mocov3/imagenet1k-resnet50", 9.6, 4096),
        ("simclr/imagenet1k-resnet50", 4.8, 4096),
        ("dino/imagenet1k-resnet50", 0.06, 512),
        ("supervised/imagenet1k-resnet50", 0.1, 256),
        ("dino/cifar10-resnet18", 0.06 * 2, 256),
        ("supervised/cifar10-resnet18", 0.1 * 2, 256),
    ],
)
def test_learning_rates_are_those_of_the_sources(name: str, peak: float, batch: int) -> None:
    recipe = shipped(name)
    assert recipe.batch_size == batch
    assert recipe.optimizer.lr * batch / 256 == pytest.approx(peak)


def test_byol_on_cifar_takes_the_steps_of_lightlys_loss_of_a_quarter() -> None:
    torch.manual_seed(0)
    targets = torch.randn(5, 8)
    stepped = []
    for factor, loss in ((4, BYOLLoss()), (1, NegativeCosineSimilarity())):
        weight = torch.ones(8, requires_grad=True)
        directions = loss(targets.flip(0) * weight, targets) + loss(targets * weight, targets)
        (directions if factor == 4 else directions / 2).backward()
        lr, decay = 0.12 / factor, 5e-4 * factor
        torch.optim.SGD([weight], lr=lr, weight_decay=decay).step()
        stepped.append(weight.detach())
    torch.testing.assert_close(stepped[0], stepped[1])
    optimizer = shipped("byol/cifar10-resnet18").optimizer
    assert (optimizer.lr, optimizer.weight_decay) == (0.12 / 4, 5e-4 * 4)


def test_the_recipe_of_the_published_study_is_unchanged() -> None:
    assert shipped("fashion-mnist-cpu") == Recipe.model_validate(
        {
            "method": "co-byol",
            "arch": "rf29_resnet18",
            "dataset": "fashion-mnist",
            "width": 0.125,
            "epochs": 4,
            "limit": 8000,
            "batch_size": 64,
            "monitor_every": 2,
            "optimizer": {
                "name": "sgd",
                "lr": 0.5,
                "momentum": 0.9,
                "weight_decay": 1e-4,
                "warmup_epochs": 0.5,
            },
            "views": {
                "min_crop": 0.5,
                "blur": (0.0, 0.0),
                "saturation": 0.0,
                "hue": 0.0,
                "grey": 0.0,
            },
            "options": {"ema": 0.95, "hidden": 512, "dim": 128},
        }
    )
    quick = shipped("quickstart")
    assert differing_keys(quick, shipped("fashion-mnist-cpu")) == [
        "dataset", "epochs", "limit", "method", "mlp", "monitor_every", "options.ema",
        "options.temperature", "views.grey", "views.hue", "views.saturation", "views.solarize",
    ]  # fmt: skip
    assert (quick.dataset, quick.limit, quick.epochs, quick.mlp) == ("parts", 4000, 6, False)
    assert quick.options["temperature"] == 0.2
    assert quick.views.solarize == (0, 0)


def test_a_recipe_of_another_version_is_refused_in_one_line() -> None:
    with pytest.raises(CossError) as error:
        build_recipe({"version": 3, "unheard_of": 1}, "mine.yaml")
    message = str(error.value)
    assert message.startswith("mine.yaml: recipe of version 3, this tool reads version 2")
    assert "\n" not in message
    assert build_recipe({}, "mine.yaml").version == 2


def test_a_recipe_of_version_1_called_local_crops_local_views() -> None:
    old = {"version": 1, "method": "byol-mc", "views": {"local_views": 3, "flip": 0.0}}
    new = {"method": "byol-mc", "views": {"local_crops": 3, "flip": 0.0}}
    assert build_recipe(old, "old.yaml") == build_recipe(new, "new.yaml")
    with pytest.raises(CossError, match=r"views\.local_views.*did you mean .*local_crops"):
        build_recipe({**old, "version": 2}, "old.yaml")


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("cobyol/imagenet1k-rf99-resnet50", "co-byol/imagenet1k-rf99-resnet50"),
        ("byol/cifar-resnet18", "byol/cifar10-resnet18"),
        ("???", "quickstart"),
    ],
)
def test_an_unknown_recipe_is_answered_with_near_ones(
    bench: Callable[..., Any], wrong: str, near: str
) -> None:
    outcome = bench("pretrain", "--recipe", wrong)
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: no recipe is named '{wrong}'; did you mean ")
    assert f"{near}," in outcome.err.replace("?", ",")
    assert outcome.err.count("\n") == 1


def test_the_table_of_recipes_in_the_docs_is_complete() -> None:
    text = (DOCS / "recipes.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| (`[^|]+`) \| ([^|]+) \|", text, re.MULTILINE)
    listed = []
    for family, archs, methods in rows:
        for arch in re.findall(r"`([\w-]+)`", archs):
            listed += [f"{m}/{family}-{arch}" for m in re.findall(r"`([\w-]+)`", methods)]
    assert sorted([*listed, *FLAT]) == shipped_recipes()


# ---- the recipes train ----


@pytest.fixture(scope="module")
def parts() -> ImageSet:
    return open_dataset("parts", "train")


def build(recipe: Recipe, size: int, classes: int = 10) -> Method:
    torch.manual_seed(0)
    encoder = build_encoder(recipe.arch, size=size, width=recipe.width)
    method: Method = registry.load("method", recipe.method)(encoder, recipe, classes)
    return method


@pytest.mark.parametrize("name", [f"{method}/cifar10-rf29-resnet18" for method in METHODS])
def test_a_narrow_version_of_each_small_recipe_trains_a_step(name: str, parts: ImageSet) -> None:
    # The first step of the warm-up would be too small to see.
    recipe = shipped(name, dataset="parts", optimizer={"warmup_epochs": 0}, **SMALL)
    method = build(recipe, 32)
    before = method.encoder.conv1.weight.detach().clone()  # type: ignore[union-attr, operator]
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(method, training_loader(parts, recipe, method.views))
    assert trainer.global_step == 1
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert not torch.equal(method.encoder.conv1.weight, before)  # type: ignore[arg-type]


def test_an_imagenet_recipe_trains_on_folders_of_pictures(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for part, count in (("train", 100), ("val", 1)):
        for wnid in ("n01", "n02"):
            folder = tmp_path / "imagenet" / part / wnid
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.JPEG")
    small = SMALL | {"batch_size": 4, "limit": 4, "size": 64, "workers": 0}
    recipe = shipped("co-byol/imagenet1k-rf99-resnet50", **small)
    pretrain(recipe, tmp_path / "run", device="cpu", data_root=tmp_path)
    loaded = load_checkpoint(tmp_path / "run")
    assert loaded.metadata["training"]["steps"] == 1
    assert loaded.encoder.field == 99


@pytest.mark.parametrize("method", ["byol-mc", "dino-mc"])
def test_the_multi_crop_recipes_train_at_a_small_size(method: str) -> None:
    options = {"hidden": 16} | ({"prototypes": 32} if "dino" in method else {})
    recipe = shipped(f"{method}/imagenet1k-resnet50", options=options, size=64, **SMALL)
    small, large = measure(build(recipe, 64), 64, 10, 4, cuda=False)
    assert 0 < small.macs < large.macs


# ---- plans ----


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
