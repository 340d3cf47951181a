"""How the model of a record was trained: its recipe, whole, and what came of it.

`model["training"]` holds `recipe` (what `pretrain` was given, defaults included), `images` and
`steps`. A model of another tool has no recipe, and states whatever is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Keys of a recipe that do not tell two trainings apart: metadata of the model and its test set say
# them (`limit` as the number of images), or nothing that is learnt depends on them.
_ASIDE = {
    *("version", "method", "arch", "dataset", "width", "size", "limit"),
    *("workers", "monitor_every"),
}
_HABIT = {"mlp": None, "accumulate": 1}  # said only where a recipe departs from it

# What metadata held one by one before they held the recipe, views apart.
_PARTS = ("seed", "epochs", "batch_size", "accumulate", "precision", "optimizer", "options")


def recipe_in(model: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe in a model's metadata; {} if it was not trained by one."""
    return dict((model.get("training") or {}).get("recipe") or {})


def training_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """What sets a training apart from others, in one mapping: recipe, seed and budget."""
    training = dict(model.get("training") or {})
    recipe = training.pop("recipe", None) or {}
    told = {k: v for k, v in recipe.items() if k not in _ASIDE and (k, v) not in _HABIT.items()}
    return told | training


def with_recipe(model: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Metadata with the recipe under `training.recipe`, put together where they hold its parts.

    Those that name no parts of a recipe come back as they are. What older metadata do not say
    (before it was kept: `mlp`, `accumulate`) is not in the recipe either.

    Args:
        model: `Record.model`, or the like.
        size: of the training images in px.
    """
    training = dict(model.get("training") or {})
    if "recipe" in training or not {"epochs", "optimizer", "views", "options"} <= training.keys():
        return dict(model)
    views = dict(training.pop("views"))
    if "local_views" in views:  # its name in recipes of version 1
        views["local_crops"] = views.pop("local_views")
    recipe = {
        "version": 2,
        **{key: model.get(key) for key in ("method", "arch", "dataset", "width")},
        "size": size,
        "limit": training.get("images"),
        **({"mlp": model["mlp"]} if "mlp" in model else {}),
        **{key: training.pop(key) for key in _PARTS if key in training},
        "views": views,
    }
    kept = {key: value for key, value in model.items() if key != "mlp"}
    return kept | {"training": training | {"recipe": recipe}}
