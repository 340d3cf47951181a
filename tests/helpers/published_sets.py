"""Published test sets in their exact layouts, of tiny pictures, and an ImageNet to go with them."""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustbench_coss.test_sets.description import class_map, describe

WNIDS = tuple(target for targets in class_map("imagenet-sketch").values() for target in targets)


def picture(shade: int, side: int = 8, ending: str = "JPEG") -> bytes:
    """A grey picture of one shade."""
    buffer = io.BytesIO()
    kind = {"JPEG": "JPEG", "png": "PNG", "jpg": "JPEG"}[ending]
    Image.new("RGB", (side, side), (shade % 256,) * 3).save(buffer, kind)
    return buffer.getvalue()


FORTY = np.arange(40) % 10
PICTURES = {e: [picture(s, ending=e) for s in range(0, 256, 32)] for e in ("JPEG", "png")}


def put(folder: Path, names: Iterable[str], count: int = 1, ending: str = "JPEG") -> None:
    """Folders of pictures; links to a few files, which takes a tenth of the time of writing."""
    store = folder.parent / f".pictures-{ending}"
    store.mkdir(parents=True, exist_ok=True)
    for shade, data in enumerate(PICTURES[ending]):
        (store / f"{shade}").write_bytes(data)
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            os.link(
                store / f"{(number + k) % len(PICTURES[ending])}", folder / name / f"{k}.{ending}"
            )


def imagenet(root: Path, wnids: Iterable[str] = WNIDS) -> None:
    """train/ and val/, here with one picture a class, named and numbered as published."""
    wnids = sorted(wnids)
    put(root / "imagenet" / "train", wnids, 1 if len(wnids) > 100 else 9)
    for number, wnid in enumerate(wnids, start=1):
        folder = root / "imagenet" / "val" / wnid
        folder.mkdir(parents=True)
        shade = PICTURES["JPEG"][number % 8]
        (folder / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(shade)


def publish(name: str, root: Path, labels: NDArray[np.int64] = FORTY) -> Path:
    """The folder of a shipped test set below `root`, laid out as its authors have it.

    Args:
        labels: of arrays.
    """
    told = describe(name)
    folder = root / (told.folders[0] if told.folders[0] != "." else "")
    if told.layout == "arrays":
        folder.mkdir(parents=True, exist_ok=True)
        _arrays(name, folder, labels)
    elif told.layout == "answers":
        folder.mkdir(parents=True)
        rows = [[k] if k % 3 else [] if k % 2 else [k, (k + 1) % 1000] for k in range(1000)]
        (folder / told.answers).write_text(json.dumps(rows))
    elif told.layout == "cue-conflict":
        names = list(class_map(name))
        for number, (shape, texture) in enumerate(itertools.product(names, names)):
            path = folder / shape / f"{shape}1-{texture}2.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(17 * number, ending="png"))
    elif told.class_in:  # as raw-data of model-vs-human names them
        place = folder / "dnn" / "session-1"
        place.mkdir(parents=True)
        for number, key in enumerate(class_map(name)):
            for k in range(2):
                file = f"{number:04d}_sty_dnn_0_{key}_00_{key}-{k:04d}-ILSVRC2012-val-0000{k}.png"
                (place / file).write_bytes(picture(16 * number + k, ending="png"))
    else:
        places = [told.path.format(kind=k, level=v) for k in told.kinds for v in told.levels] or [
            "."
        ]
        for place in places:
            if told.pairs:
                _paired(root, folder / place)
            else:
                put(folder / place, class_map(name), ending="png" if told.border else "JPEG")
        if name == "objectnet":  # 200 more classes that ImageNet has not
            put(folder, [f"other_{k}" for k in range(200)], ending="png")
    return folder


def _paired(root: Path, folder: Path) -> None:
    """What lies in imagenet/val, as links."""
    for source in sorted((root / "imagenet" / "val").iterdir()):
        target = folder / source.name
        target.mkdir(parents=True)
        for file in source.iterdir():
            os.link(file, target / file.name)


def _arrays(name: str, folder: Path, labels: NDArray[np.int64]) -> None:
    rng = np.random.default_rng(3)
    told = describe(name)
    if told.kinds:
        labels = np.tile(labels, len(told.levels))
        for kind in told.kinds:
            np.save(
                folder / f"{kind}.npy", rng.integers(0, 256, (len(labels), 32, 32, 3), np.uint8)
            )
        np.save(folder / "labels.npy", labels)
        return
    pixels = rng.integers(0, 256, (len(labels), 32, 32, 3), np.uint8)
    if told.images.endswith(".npy"):
        np.save(folder / told.images, pixels)
        np.save(folder / told.labels, labels.astype(np.int32))
    else:
        extra = {"label_names": np.array(["airplane"], object)}  # a pickle, which is never read
        np.savez(folder / told.images.partition("/")[0], images=pixels, labels=labels, **extra)
