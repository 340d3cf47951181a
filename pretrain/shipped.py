"""The recipes and sweeps that come with the package: which there are, and what they are for.

Knows names, files and comments; `recipe` and `sweep` read what is in them, which takes torch.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from robustbench_coss.analysis.labels import method_name
from robustbench_coss.reading import leading_comment, parse_yaml

RECIPES = files("robustbench_coss.pretrain").joinpath("recipes")
SWEEPS = files("robustbench_coss.pretrain").joinpath("sweeps")


@cache
def family_files(name: str) -> list[dict[str, Any]]:
    """The file of a family after those that it builds on (`like`), most general first."""
    own = parse_yaml(RECIPES.joinpath("families", f"{name}.yaml").read_bytes())
    return [*(family_files(own["like"]) if "like" in own else []), own]


def nearest(family: str, key: str) -> Any:
    """What the file of a family says under a key, or else the nearest one that it builds on."""
    return next(file[key] for file in reversed(family_files(family)) if key in file)


@cache
def composed() -> dict[str, tuple[str, str]]:
    """Names of the composed recipes, each with its family and architecture."""
    found = {}
    for item in RECIPES.joinpath("families").iterdir():
        family = item.name.removesuffix(".yaml")
        for arch in nearest(family, "architectures"):
            for method in nearest(family, "recipes"):
                found[f"{method}/{family}-{arch}"] = (family, arch)
    return found


def shipped_recipes() -> list[str]:
    """Names of the recipes in the package: flat ones, and METHOD/FAMILY-ARCHITECTURE."""
    flat = [i.name.removesuffix(".yaml") for i in RECIPES.iterdir() if i.name.endswith(".yaml")]
    return sorted([*flat, *composed()])


def recipe_about(name: str) -> str:
    """What a shipped recipe is for: the comment that it begins with, or what it is made of."""
    if name in composed():
        family, arch = composed()[name]
        return f"{method_name(name.partition('/')[0])} on {family} with {arch}."
    return leading_comment(RECIPES.joinpath(f"{name}.yaml").read_text(encoding="utf-8"))


def shipped_sweeps() -> list[str]:
    """Names of the sweeps in the package."""
    return sorted(item.name.removesuffix(".yaml") for item in SWEEPS.iterdir())


def sweep_about(name: str) -> str:
    """What a shipped sweep asks: the comment that it begins with."""
    return leading_comment(SWEEPS.joinpath(f"{name}.yaml").read_text(encoding="utf-8"))
