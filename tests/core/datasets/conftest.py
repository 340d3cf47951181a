"""What tests of data sets share: a folder of pictures, and the same in shards."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.picture_files import CLASSES, write_pictures
from helpers.simulate_shards import write_shards


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for seed, (part, count) in enumerate((("train", 10), ("val", 3), ("test", 2))):
        write_pictures(tmp_path / part, CLASSES, count, seed)
    return tmp_path


@pytest.fixture
def shards(pictures: Path, tmp_path: Path) -> Path:
    """The pictures as shards of eight, named by class numbers."""
    write_shards(pictures, tmp_path / "shards", per_shard=8)
    return tmp_path / "shards"
