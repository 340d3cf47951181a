"""Tar shards of the pictures in class folders, written by WebDataset's own writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import webdataset

from robustbench_coss.datasets.folder import IMAGEFOLDER


def write_shards(folder: Path, shards: Path, per_shard: int) -> None:
    """Write `part-000000.tar` and so on for train, val and test, in the order of the folders.

    A sample's key is the picture's relative path without its ending.
    """
    shards.mkdir(parents=True)
    for role, part in (("train", "train"), ("validation", "val"), ("test", "test")):
        if not (folder / part).is_dir():
            continue
        images: Any = IMAGEFOLDER.open(role, 32, folder, False)
        pattern = str(shards / f"{part}-%06d.tar")
        with webdataset.ShardWriter(pattern, maxcount=per_shard, verbose=0) as writer:
            for index, label in enumerate(images.labels.tolist()):
                path = images.path(index)
                key = path.relative_to(folder).with_suffix("").as_posix()
                writer.write(
                    {"__key__": key, path.suffix[1:]: path.read_bytes(), "cls": str(label)}
                )
