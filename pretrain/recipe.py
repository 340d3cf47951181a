"""Recipes: everything that determines a pretraining run, validated.

A shipped recipe is a flat file (`quickstart`) or is composed, by name, from the file of a family
(`co-byol/imagenet1k-rf99-resnet50`); composing is laying mappings over each other, nothing else.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustbench_coss.datasets.base import LARGEST_IMAGE
from robustbench_coss.errors import CossError, did_you_mean
from robustbench_coss.pretrain.shipped import (
    RECIPES,
    composed,
    family_files,
    nearest,
    shipped_recipes,
)
from robustbench_coss.pretrain.views import ViewOptions
from robustbench_coss.reading import MOST_YAML, parse_yaml, read_bytes


class OptimizerOptions(BaseModel):
    """Optimiser and learning-rate schedule: linear warm-up, then a cosine to 0.001 of the peak.

    `lr` is for a global batch of 256 and is scaled linearly with the global batch size, which is
    `batch_size`: it never depends on how many devices share the batch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["lars", "sgd", "adamw"] = "sgd"
    lr: float = Field(0.1, gt=0, le=1e4)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0, le=1e4)
    warmup_epochs: float = Field(1.0, ge=0, le=1e6)
    clip: float | None = Field(None, gt=0)
    """Largest norm of the gradient of all parameters together; None for no clipping."""


VERSION = 2
"""Of the keys of a recipe and what they mean. 1 is read, too: it said `local_views` for
`views.local_crops`. Any other version is refused."""


class Recipe(BaseModel):
    """A pretraining run. `coss-bench pretrain --recipe FILE.yaml` reads one; options override it.

    Attributes:
        version: of the recipe's keys, `VERSION`.
        method, arch, dataset: registered names.
        width: factor on the encoder's channel counts.
        mlp: whether an MLP follows the encoder's pooling; None for what the architecture has.
        size: side of the training images in px; None takes the data set's default.
        epochs: passes over the training images.
        batch_size: images per optimiser step (global batch).
        accumulate: micro-batches that a batch is split into.
        limit: train on this many images only, a fixed random subset; None for all.
        seed: of initialisation, order and views.
        precision: "32", "bf16" (mixed) or "auto": whichever is faster, chosen as the run begins.
        workers: processes that decode images, at most one per core; data sets held in memory need
            none.
        monitor_every: epochs between two measurements of kNN accuracy; None for about ten in all.
        optimizer, views: see there.
        options: the method's own options (see `coss-bench list`); validated by the method.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = VERSION
    method: str = "co-byol"
    arch: str = "rf29_resnet18"
    dataset: str = "parts"
    width: float = Field(1.0, gt=0, le=8)
    mlp: bool | None = None
    size: int | None = Field(None, ge=8, le=LARGEST_IMAGE)
    epochs: int = Field(100, ge=1, le=1_000_000)
    batch_size: int = Field(256, ge=2, le=1_000_000)
    accumulate: int = Field(1, ge=1, le=1_000_000)
    limit: int | None = Field(None, ge=2, lt=2**63)
    seed: int = Field(0, ge=0, lt=2**63)
    precision: Literal["32", "bf16", "auto"] = "32"
    workers: int = Field(4, ge=0, le=1024)
    monitor_every: int | None = Field(None, ge=1, le=1_000_000)
    optimizer: OptimizerOptions = OptimizerOptions()
    views: ViewOptions = ViewOptions()
    options: dict[str, Any] = {}


def explain_validation(error: ValidationError, where: str, model: type[BaseModel]) -> CossError:
    """All of pydantic's findings in one line, each with the value received or the nearest key."""
    findings = []
    for item in error.errors():
        path = [str(part) for part in item["loc"]]
        key = ".".join(path)
        if item["type"] == "extra_forbidden":
            known = _keys(model, path[:-1])
            hint = did_you_mean(path[-1], known) or f"known: {', '.join(known)}"
            findings.append(f"unknown key {key!r}, {hint}")
        else:
            findings.append(f"{key}: {item['msg']}, got {item.get('input')!r}"[:160])
    return CossError(f"{where}: {'; '.join(findings)}")


def _keys(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that a model takes at a path of nested models."""
    for part in path:
        inner = model.model_fields[part].annotation
        assert isinstance(inner, type)
        assert issubclass(inner, BaseModel)
        model = inner
    return list(model.model_fields)


def build_recipe(values: dict[str, Any], where: str) -> Recipe:
    """Validate values into a Recipe.

    Raises:
        CossError: it is of another version, or has wrong keys or values (all of them are named).
    """
    version = values.get("version", VERSION)
    if version == 1:
        values, version = _from_version_1(values), VERSION
    if version != VERSION:
        raise CossError(
            f"{where}: recipe of version {version!r}, this tool reads version {VERSION}; "
            "use the version of this package that it was written for"
        )
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise explain_validation(error, where, Recipe) from error
    for key, value in _flat(recipe.model_dump()).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise CossError(f"{where}: {key} must be a finite number, got {value}")
    return recipe


def _from_version_1(values: dict[str, Any]) -> dict[str, Any]:
    views = values.get("views")
    if isinstance(views, dict) and "local_views" in views:
        renamed = {"local_crops": views["local_views"], **views}  # an option that was given wins
        values = values | {"views": {k: v for k, v in renamed.items() if k != "local_views"}}
    return values | {"version": VERSION}


EXAMPLES = ["quickstart", "co-byol/cifar10-rf29-resnet18", "co-byol/imagenet1k-rf99-resnet50"]
"""Shown where a name is like none of the many shipped recipes."""


def _compose(name: str) -> dict[str, Any]:
    """The values of a composed recipe: general before special, file by file and within a file."""
    family, arch = composed()[name]
    method = name.partition("/")[0]
    base = method.removeprefix("co-").removesuffix("-mc")
    forms = {"co": method.startswith("co-"), "mc": method.endswith("-mc")}
    values: dict[str, Any] = {"method": method}
    for file in family_files(family):
        layers = [file.get("common"), file.get("methods", {}).get(base)]
        layers += [file.get("forms", {}).get(form) for form, wanted in forms.items() if wanted]
        for layer in layers:
            values = merge(values, layer or {})
    return merge(values, nearest(family, "architectures")[arch])


def read_recipe(name: str) -> dict[str, Any]:
    """The values of a recipe file, or of a shipped recipe by name.

    Raises:
        CossError: no such file or name, or not a YAML mapping.
    """
    path = Path(name)
    if name in composed():
        return _compose(name)
    if name in shipped_recipes():
        text = RECIPES.joinpath(f"{name}.yaml").read_bytes()
    elif path.suffix in {".yaml", ".yml"} or path.exists():
        text = read_bytes(path, MOST_YAML, "read recipe")
    else:
        hint = did_you_mean(name, shipped_recipes()) or f"did you mean {', '.join(EXAMPLES)}?"
        raise CossError(
            f"no recipe is named {name!r}; {hint} Or pass a file whose name ends in .yaml"
        )
    try:
        values = parse_yaml(text)
    except ValueError as error:
        raise CossError(
            f"recipe {name} is not valid YAML ({error}); compare the recipe.yaml of a run folder"
        ) from error
    if not isinstance(values, dict):
        raise CossError(f"recipe {name} must be a mapping of keys to values")
    return values


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, mapping by mapping."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def nested(key: str, value: Any) -> dict[str, Any]:
    """("a.b", 1) as {"a": {"b": 1}}, for `merge`."""
    for part in reversed(key.split(".")):
        value = {part: value}
    made: dict[str, Any] = value
    return made


def dump_recipe(recipe: Recipe) -> str:
    """A recipe as YAML that reads back as the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def differing_keys(a: Recipe, b: Recipe) -> list[str]:
    """Dotted keys whose values differ between two recipes."""
    one, two = _flat(a.model_dump()), _flat(b.model_dump())
    return sorted(key for key in one.keys() | two.keys() if one.get(key) != two.get(key))
