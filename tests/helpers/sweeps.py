"""Sweeps of the smallest kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
