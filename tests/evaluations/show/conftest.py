"""What tests of `coss-bench show` share: a photograph, and a measured run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smooth picture, wider than high."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    y, x = np.mgrid[0:60, 0:90]
    levels = np.stack([2 * x, 4 * y, x + y], axis=2).astype(np.uint8)
    Image.fromarray(levels).save(path)
    return path
