"""What a run folder holds, and whether a run may begin or go on in one."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from robustbench_coss.datasets.base import ImageSet
from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.files import write_atomically
from robustbench_coss.pretrain.methods.base import Method
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


def check_folder(recipe: Recipe, out: Path, resume: bool) -> None:
    """Raise CossError unless the run may be written to `out`, or go on there if `resume`."""
    if resume:
        changed = set(differing_keys(recipe, run_recipe(out))) - {"workers"}  # changes no result
        if changed:
            raise CossError(
                f"{out} was started with another recipe: {', '.join(sorted(changed))} differ; "
                "resume without those options or start afresh in another --out"
            )
    elif out.exists() and not out.is_dir():
        raise CossError(f"{out} is a file; pass a folder as --out")
    elif out.exists() and any(out.iterdir()):
        raise CossError(f"{out} is not empty; pass --resume to go on with it, or another --out")


RESUMED = {"epoch", "loops", "callbacks", "optimizer_states", "lr_schedulers"}
"""What Lightning restores beside the weights."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints written like all files of this project.

    Lightning's own way goes through the system's temporary folder, from where a move to another
    disk is a copy: killed in the middle, it would leave half a checkpoint in place of a whole one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(Path(path), buffer.getvalue())


def check_resumable(checkpoint: Path, method: Method, train: ImageSet) -> None:
    """Raise CossError unless a checkpoint is whole and fits method and data; runs no code in it."""
    remedy = "delete it to train from the beginning with --resume, or start in another --out"
    try:
        with explain_os_errors("read", checkpoint), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on how to load a foreign pickle
            stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
        shapes = {key: value.shape for key, value in stored["state_dict"].items()}
        complete = set(stored) >= RESUMED
    except CossError:
        raise
    except Exception as error:  # torch raises many kinds on damaged, foreign or malicious files
        raise CossError(
            f"{checkpoint} is truncated or not a checkpoint of this tool "
            f"({type(error).__name__}); {remedy}"
        ) from error
    if not complete or shapes != {key: value.shape for key, value in method.state_dict().items()}:
        raise CossError(f"{checkpoint} does not fit the recipe beside it; {remedy}")
    # Version 0.1.0 stored no fingerprint.
    if stored.get("dataset_fingerprint") not in (None, train.fingerprint):
        raise CossError(
            f"the training images of {train.name} are not those that {checkpoint} was trained on; "
            "restore them, or start in another --out"
        )
