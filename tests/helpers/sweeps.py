"""Sweeps of the smallest kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

SMALL: dict[str, Any] = {
    "arch": "rf29_resnet18",
    "dataset": "parts",
    "width": 1 / 16,
    "size": 16,
    "limit": 64,
    "batch_size": 32,
    "epochs": 2,
    "monitor_every": 2,
    "options": {"hidden": 64, "dim": 16},
}


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
