"""Shipped recipes, and how they are composed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import yaml
from helpers import ROOT
from helpers.shipped import METHODS, shipped
from lightly.loss import NegativeCosineSimilarity

from robustbench_coss import registry
from robustbench_coss.errors import CossError
from robustbench_coss.pretrain.methods.losses import BYOLLoss
from robustbench_coss.pretrain.recipe import (
    Recipe,
    build_recipe,
    differing_keys,
    dump_recipe,
)
from robustbench_coss.pretrain.shipped import shipped_recipes

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
FLAT = [name for name in shipped_recipes() if "/" not in name]


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
        "batch_size", "dataset", "epochs", "method", "mlp", "monitor_every",
        "optimizer.lr", "options.ema", "options.temperature", "views.grey", "views.hue",
        "views.min_crop", "views.saturation", "views.solarize",
    ]  # fmt: skip
    assert (quick.dataset, quick.limit, quick.epochs, quick.mlp) == ("parts", 8000, 3, False)
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
