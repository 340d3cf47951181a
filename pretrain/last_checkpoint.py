"""The checkpoint that a run goes on from: how it is written, and what of one is restored.

A checkpoint may come from anywhere. Nothing in it is executed, and Lightning is not given the file
but what is rebuilt here from its checked parts, so that nothing else in it has an effect.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections import defaultdict
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from robustbench_coss.datasets.base import ImageSet
from robustbench_coss.errors import CossError
from robustbench_coss.files import write_atomically
from robustbench_coss.models.containers import load_torch
from robustbench_coss.pretrain.methods.base import Method
from robustbench_coss.pretrain.monitors import OnlineProbe


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints written like all files of this project.

    Lightning's own way goes through the system's temporary folder, from where a move to another
    disk is a copy: killed in the middle, it would leave half a checkpoint in place of a whole one.

    Args:
        resumed: what `restorable` gave, in place of the file that Lightning asks for.
    """

    def __init__(self, resumed: dict[str, Any] | None) -> None:
        super().__init__()
        self.resumed = resumed

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(Path(path), buffer.getvalue())

    def load_checkpoint(self, *_: Any, **__: Any) -> dict[str, Any]:
        assert self.resumed is not None
        resumed, self.resumed = self.resumed, None  # Lightning's from here on
        return resumed


class SaveEveryEpoch(Checkpoint):
    """Writes a checkpoint after every epoch, behind all other callbacks.

    Unlike Lightning's ModelCheckpoint it has no state: that one's names files, which it removes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.save_checkpoint(self.path)


def restorable(
    path: Path, method: Method, train: ImageSet, batches: int, device: torch.device
) -> dict[str, Any]:
    """What Lightning restores of a checkpoint, made anew of its parts once these are checked.

    Args:
        batches: of an epoch.
        device: that training goes on on.

    Raises:
        CossError: the file is damaged or does not fit method and data.
    """
    remedy = "delete it to train from the beginning with --resume, or start in another --out"
    try:
        # torch's advice on how to load a foreign pickle
        with warnings.catch_warnings(action="ignore"):
            stored = load_torch(path)
        if not isinstance(stored, dict):
            raise TypeError(f"it holds a {type(stored).__name__}")
    except CossError:
        raise
    except Exception as error:  # torch raises many kinds on damaged, foreign or malicious files
        raise CossError(
            f"{path} is truncated or not a checkpoint of this tool ({type(error).__name__}); "
            f"{remedy}"
        ) from error
    try:
        found = _rebuilt(stored, method, len(train.classes), batches, device)
    except _Misfit as error:
        raise CossError(f"{path} does not fit the recipe beside it ({error}); {remedy}") from error
    # Version 0.1.0 stored no fingerprint.
    if stored.get("dataset_fingerprint") not in (None, train.fingerprint):
        raise CossError(
            f"the training images of {train.name} are not those that {path} was trained on; "
            "restore them, or start in another --out"
        )
    return found


class _Misfit(Exception):
    """The part that is not as this tool writes it."""


def _rebuilt(
    stored: dict[str, Any], method: Method, classes: int, batches: int, device: torch.device
) -> dict[str, Any]:
    epochs = method.recipe.epochs
    epoch = _count(stored.get("epoch"), epochs - 1, "epoch")
    step = _count(stored.get("global_step"), epochs * batches, "global_step")
    probe = OnlineProbe(method.encoder.dim, classes, method.recipe.seed)
    callbacks, loops = stored.get("callbacks"), stored.get("loops")
    seen = callbacks.get("OnlineProbe") if isinstance(callbacks, dict) else None
    if not isinstance(seen, dict) or not isinstance(loops, dict):
        raise _Misfit("callbacks or loops")
    fresh_loops = pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit_loop.state_dict()
    optimizer = method.make_optimizer(device)
    state = _only(stored.get("optimizer_states"))
    rates = _rates(state, optimizer)
    return {
        "epoch": epoch,
        "global_step": step,
        "pytorch-lightning_version": version("pytorch-lightning"),
        "state_dict": _like(method.state_dict(), stored.get("state_dict"), "state_dict"),
        "loops": {"fit_loop": _counts(fresh_loops, loops.get("fit_loop"), epochs * batches)},
        "callbacks": {
            "OnlineProbe": {
                "layer": _like(probe.layer.state_dict(), seen.get("layer"), "online probe"),
                "norm": _like(probe.norm.state_dict(), seen.get("norm"), "online probe"),
                "optimizer": _optimizer_state(probe.optimizer, seen.get("optimizer")),
            }
        },
        "optimizer_states": [_optimizer_state(optimizer, state, rates)],
        "lr_schedulers": [
            {
                "last_epoch": step,
                "_step_count": step + 1,
                "_last_lr": rates,
                "lr_lambdas": [None] * len(rates),
            }
        ],
    }


def _count(value: Any, highest: int, what: str) -> int:
    if type(value) is not int or not 0 <= value <= highest:
        raise _Misfit(what)
    return value


def _counts(fresh: Any, value: Any, highest: int) -> Any:
    """A nest of counts and flags with the keys of `fresh`."""
    if isinstance(fresh, dict):
        if not isinstance(value, dict) or not set(value) >= set(fresh):
            raise _Misfit("loops")
        return {key: _counts(each, value[key], highest) for key, each in fresh.items()}
    if isinstance(fresh, bool):
        if type(value) is not bool:
            raise _Misfit("loops")
        return value
    return _count(value, highest, "loops")


def _like(fresh: Mapping[str, Tensor], value: Any, what: str) -> dict[str, Tensor]:
    """Tensors of the names, shapes and types of `fresh`."""
    if not isinstance(value, dict) or value.keys() != fresh.keys():
        raise _Misfit(what)
    return {key: _tensor(each, value[key], what) for key, each in fresh.items()}


def _tensor(fresh: Tensor, value: Any, what: str) -> Tensor:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
        raise _Misfit(what)
    if value.shape != fresh.shape or value.dtype != fresh.dtype:
        raise _Misfit(what)
    return value.clone()  # dense, in the layout it has


def _only(states: Any) -> dict[str, Any]:
    """The state of the one optimiser."""
    if not isinstance(states, list) or len(states) != 1 or not isinstance(states[0], dict):
        raise _Misfit("optimizer")
    return states[0]


def _rates(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> list[float]:
    """Learning rates of an optimiser's groups: the schedules never exceed those of the recipe."""
    found = state.get("param_groups")
    highest = [float(group["lr"]) for group in optimizer.param_groups]
    if not isinstance(found, list) or len(found) != len(highest):
        raise _Misfit("optimizer")
    rates = []
    for group, most in zip(found, highest, strict=True):
        rate = group.get("lr") if isinstance(group, dict) else None
        if not isinstance(rate, float) or not 0 <= rate <= most * (1 + 1e-6):
            raise _Misfit("learning rate")
        rates.append(rate)
    return rates


def _optimizer_state(
    optimizer: torch.optim.Optimizer, state: Any, rates: list[float] | None = None
) -> dict[str, Any]:
    """An optimiser's own groups, with other rates if given, and what is stored per parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    stored = state.get("state") if isinstance(state, dict) else None
    if not isinstance(stored, dict) or not stored.keys() <= set(range(len(parameters))):
        raise _Misfit("optimizer")
    kept = {
        number: _like(_kept_of(parameters[number], optimizer), values, "optimizer")
        for number, values in stored.items()
    }
    groups = optimizer.state_dict()["param_groups"]
    if rates is not None:
        groups = [
            group | {"lr": rate, "initial_lr": group["lr"]}
            for group, rate in zip(groups, rates, strict=True)
        ]
    return {"state": kept, "param_groups": groups}


def _kept_of(parameter: Tensor, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser keeps of a parameter, as it is after a first step."""
    alike = torch.zeros(parameter.shape, dtype=parameter.dtype, requires_grad=True)
    alike.grad = torch.zeros_like(alike)
    trial = copy.copy(optimizer)
    trial.state = defaultdict(dict)
    trial.param_groups = [optimizer.param_groups[0] | {"params": [alike]}]
    trial.step()
    return dict(trial.state[alike])
