"""Where a run's metrics go beside `metrics.csv`: Lightning's own loggers, chosen by name."""

from __future__ import annotations

import importlib.util
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from robustbench_coss.errors import CossError, kind_and_line, unknown_name
from robustbench_coss.files import write_atomically
from robustbench_coss.pretrain.distributed import rank
from robustbench_coss.pretrain.recipe import Recipe

PROJECT = "robustbench-coss"
"""What trackers call the project of all runs."""

WANDB_ID = "wandb-id"
"""File of a run folder: which run of Weights & Biases it is, for resuming."""

PACKAGES = {
    "wandb": ("wandb", "pip install 'robustbench-coss[wandb]'"),
    "mlflow": ("mlflow", "pip install mlflow-skinny (docs/dependencies.md says what to know)"),
}
"""What loggers need beside this package's own dependencies: module, and how to have it."""


def check_logger(name: str) -> None:
    """Raise CossError if there is no logger of this name, or its package is missing."""
    if name not in LOGGERS:
        raise unknown_name("logger", name, LOGGERS, more="")
    module, remedy = PACKAGES.get(name, ("", ""))
    if module and importlib.util.find_spec(module) is None:
        raise CossError(f"--logger {name} needs the package {module}; {remedy}")


@contextmanager
def logging_to(name: str, out: Path, recipe: Recipe) -> Iterator[Logger | bool]:
    """A logger of a run in the folder `out`, for Lightning's trainer; False for none.

    Raises:
        CossError: as `check_logger`, or a tracker that cannot be reached or is not logged in to.
    """
    check_logger(name)
    try:
        yield _begun(name, out, recipe)
    finally:
        if name == "wandb" and rank() == 0:
            import wandb

            wandb.finish()  # another run of this process is another one there


def _begun(name: str, out: Path, recipe: Recipe) -> Logger | bool:
    """The logger; its tracker is reached now rather than after the first epoch."""
    try:
        logger: Any = LOGGERS[name](out, recipe)
        if logger and rank() == 0:
            _ = logger.experiment
        return bool(logger) and logger
    except Exception as error:  # each tracker has its own kinds
        reason = kind_and_line(error)
        offline = "; or log to this machine alone: WANDB_MODE=offline" if name == "wandb" else ""
        raise CossError(f"--logger {name} cannot begin ({reason}){offline}") from error


def _tensorboard(out: Path, recipe: Recipe) -> Logger:
    return TensorBoardLogger(out, name="", version="tensorboard")


def _csv(out: Path, recipe: Recipe) -> Logger:
    return CSVLogger(out, name="csv")  # a version for each time that the run was started


def _wandb(out: Path, recipe: Recipe) -> Logger:
    from pytorch_lightning.loggers import WandbLogger

    os.environ.setdefault("WANDB_SILENT", "true")
    return WandbLogger(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=out.name,
        save_dir=out,
        id=_wandb_id(out),
        resume="allow",
        config=recipe.model_dump(mode="json"),
    )


def _wandb_id(out: Path) -> str | None:
    """The same run there when this one is resumed here."""
    if rank() != 0:
        return None
    path = out / WANDB_ID
    if not path.is_file():
        write_atomically(path, secrets.token_hex(4))
    return path.read_text().strip()


def _mlflow(out: Path, recipe: Recipe) -> Logger:
    from pytorch_lightning.loggers import MLFlowLogger

    where = os.environ.get("MLFLOW_TRACKING_URI")
    if not where:  # files are what mlflow-skinny has without a server, and must be allowed since 3
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        where = (out / "mlruns").resolve().as_uri()
    return MLFlowLogger(experiment_name=PROJECT, run_name=out.name, tracking_uri=where)


LOGGERS: dict[str, Callable[[Path, Recipe], Logger | bool]] = {
    "tensorboard": _tensorboard,
    "csv": _csv,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "none": lambda out, recipe: False,
}
