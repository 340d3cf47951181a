"""Models from anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from robustbench_coss.checkpoints import Checkpoint, load_checkpoint


def load_model(
    where: str | Path,
    *,
    format: str = "auto",
    arch: str | None = None,
    allow_partial: bool = False,
    size: int | None = None,
) -> Checkpoint:
    return load_checkpoint(Path(where))


def wrap_module(module: nn.Module, **options: Any) -> Checkpoint:
    raise TypeError
