"""What a run folder holds, and whether a run may begin or go on in one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robustbench_coss.errors import CossError
from robustbench_coss.files import LOCK, alone, is_leftover
from robustbench_coss.pretrain.recipe import Recipe, build_recipe, differing_keys, read_recipe

RECIPE_NAME = "recipe.yaml"
CHECKPOINT_NAME = "last.ckpt"
METRICS_NAME = "metrics.csv"


def run_recipe(out: Path) -> Recipe:
    """The recipe of an existing run folder. Raises CossError if there is none."""
    path = out / RECIPE_NAME
    if not path.is_file():
        raise CossError(f"nothing to resume: {out} holds no {RECIPE_NAME}; drop --resume to start")
    return build_recipe(read_recipe(str(path)), str(path))


def changed_keys(recipe: Recipe, out: Path) -> list[str]:
    """Keys of a recipe that the run in a folder was begun with otherwise, and that matter to it."""
    return [key for key in differing_keys(recipe, run_recipe(out)) if key != "workers"]


def check_folder(recipe: Recipe, out: Path, resume: bool) -> None:
    """Raise CossError unless the run may be written to `out`, or go on there if `resume`."""
    if resume:
        if changed := changed_keys(recipe, out):
            raise CossError(
                f"{out} was started with another recipe: {', '.join(changed)} differ; "
                "resume without those options or start afresh in another --out"
            )
    elif out.exists() and not out.is_dir():
        raise CossError(f"{out} is a file; pass a folder as --out")
    elif out.exists() and not is_vacant(out):
        raise CossError(f"{out} is not empty; pass --resume to go on with it, or another --out")


def is_vacant(out: Path) -> bool:
    """Whether a folder holds nothing but what a process leaves that is killed at its start."""
    return all(is_leftover(path) for path in out.iterdir())


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep other processes off a run folder. Raises CossError if one is at it."""
    with alone(out / LOCK, f"training in {out}"):
        yield
