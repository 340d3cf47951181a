"""What tests of fast corruptions share: the package imagecorruptions with given draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.corrupted import Pictures, Replay
from PIL import Image
from torch import Tensor


@pytest.fixture
def replay(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[..., Any], Pictures, int, Tensor], Pictures]:
    def run(function: Callable[..., Any], pictures: Pictures, severity: int, keys: Tensor) -> Any:
        out = []
        for picture, key in zip(pictures, keys, strict=True):
            with monkeypatch.context() as patch, np.errstate(all="ignore"):
                Replay(key[None], patch)
                out.append(np.uint8(function(Image.fromarray(picture), severity)))
        return np.stack(out)

    return run
