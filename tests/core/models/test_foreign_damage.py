"""Files of other tools with tensors that lack or have strange shapes: one line, whatever it is."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import layouts
from helpers.foreign_files import write

from robustbench_coss.errors import CossError
from robustbench_coss.models.load import load_model

LAYOUTS = [
    layouts.moco,
    layouts.supcon,
    layouts.dino,
    layouts.swin_teacher,
    layouts.ijepa,
    layouts.dinov2_registers,
    layouts.dinov2_giant,
    layouts.lightly_msn,
]
TIMES = 12


def damaged(content: Any, draw: random.Random) -> Any:
    """A copy in which tensors are left out, cut, flattened or emptied."""
    if isinstance(content, dict):
        kept = [k for k, v in content.items() if not torch.is_tensor(v) or draw.random() > 0.02]
        return {key: damaged(content[key], draw) for key in kept}
    if torch.is_tensor(content) and draw.random() < 0.02:
        changes: list[Callable[[Any], Any]] = [
            lambda t: t[:1],
            lambda t: t[:0],
            lambda t: t.flatten(),
            lambda t: t[None],
            lambda t: t.flatten()[:1].squeeze(),
        ]
        return draw.choice(changes)(content) if content.dim() else content
    return content


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_damage_is_one_line(layout: Any, tmp_path: Path) -> None:
    content, _ = layout()
    messages = []
    for seed in range(TIMES):
        path = write(tmp_path, damaged(content, random.Random(seed)))
        try:
            load_model(path, size=64, allow_partial=bool(seed % 2))
        except CossError as error:
            messages.append(str(error))
    assert len(messages) > 2
    assert all(str(path) in message and "\n" not in message for message in messages)
