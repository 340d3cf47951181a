"""Every picture has the label of its own class, in each role and layout, held out or not."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustbench_coss.datasets.base import open_dataset

CLASSES = ("2", "10", "11")
SHADE = {"2": 40, "10": 120, "11": 200}  # what a picture shows says its class


def encoded(name: str, number: int) -> bytes:
    draw = np.random.default_rng(1000 * SHADE[name] + number)
    levels = (SHADE[name] + draw.integers(-20, 21, (36, 40, 3))).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: Path, layout: str, part: str, count: int, first: int) -> None:
    if layout == "folders":
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for number in range(first, first + count):
                (root / part / name / f"{number}.png").write_bytes(encoded(name, number))
        return
    draw = np.random.default_rng(first)
    samples = [(name, number) for name in CLASSES for number in range(first, first + count)]
    order = draw.permutation(len(samples))
    for shard, chosen in enumerate(np.array_split(order, 2)):
        files = []
        for place in chosen:
            name, number = samples[place]
            files.append((f"{name}-{number}.png", encoded(name, number)))
        for place in chosen[::-1]:  # class numbers in another order than pictures
            name, number = samples[place]
            files.append((f"{name}-{number}.cls", b"%d" % CLASSES.index(name)))
        with tarfile.open(root / f"{part}-{shard}.tar", "w") as archive:
            for path, data in files[shard:] + files[:shard]:
                info = tarfile.TarInfo(path)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("parts", [("train", "test"), ("train", "val", "test"), ("train", "val")])
@pytest.mark.parametrize("layout", ["folders", "shards"])
def test_a_label_is_that_of_what_the_picture_shows(
    layout: str, parts: tuple[str, ...], tmp_path: Path
) -> None:
    for number, part in enumerate(parts):
        write(tmp_path, layout, part, 20, 100 * number)
    sizes = {}
    for role in ("train", "validation", "test"):
        images = open_dataset("imagefolder", role, size=32, root=tmp_path)
        sizes[role] = len(images)
        means = torch.stack([images.raw(i).float().mean() for i in range(len(images))])
        shown = [min(CLASSES, key=lambda c: abs(SHADE[c] - float(mean))) for mean in means]
        assert shown == [CLASSES[label] for label in images.labels.tolist()]
        small = images.images(list(range(len(images)))).float().mean(dim=(1, 2, 3))
        assert float((small - means).abs().max()) < 6
        assert {*images.labels.tolist()} == {0, 1, 2}
    held_out = 0 if len(parts) == 3 else 6  # a tenth of sixty
    assert sizes == {
        "train": 60 - held_out, "validation": held_out or 60, "test": 60,
    }  # fmt: skip
