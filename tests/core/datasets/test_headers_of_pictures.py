"""What is said of a set's pictures is that of whole files, from the beginnings of those alone."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.datasets.folder import FolderSet
from robustbench_coss.datasets.pictures import HEAD, oddities, open_picture

SIDE = 400  # of noise, which takes more bytes than a header
EXIF = Image.Exif()
EXIF[0x0112] = 6
EXIF[0x010E] = "x" * 60_000  # a long one
PICTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "turned.jpg": ("RGB", {"exif": EXIF, "quality": 95}),
    "cmyk.jpg": ("CMYK", {"quality": 95}),
    "profile.jpg": ("RGB", {"icc_profile": b"x" * 150_000, "exif": EXIF}),
    "alpha.png": ("RGBA", {}),
    "turned.png": ("RGB", {"exif": EXIF}),
    "plain.png": ("RGB", {}),
    "frames.gif": ("L", {"save_all": True}),
    "frames.png": ("RGB", {"save_all": True}),
    "alpha.webp": ("RGBA", {"lossless": True}),
    "turned.tiff": ("RGB", {"exif": EXIF}),
    "grey16.png": ("I;16", {}),
}


def encoded(name: str) -> bytes:
    mode, options = PICTURES[name]
    draw = np.random.default_rng(0)

    def image() -> Image.Image:
        if mode == "I;16":
            return Image.fromarray(draw.integers(0, 1 << 16, (SIDE, SIDE), dtype=np.uint16))
        channels = {"L": 1, "RGBA": 4, "CMYK": 4}.get(mode, 3)
        levels = draw.integers(0, 256, (SIDE, SIDE, channels), dtype=np.uint8)
        return Image.fromarray(levels[:, :, 0] if channels == 1 else levels).convert(mode)

    if options.get("save_all"):
        options = options | {"append_images": [image(), image()]}
    buffer = io.BytesIO()
    image().save(buffer, Image.registered_extensions()[Path(name).suffix], **options)
    return buffer.getvalue()


def test_a_look_at_headers_says_what_whole_files_say_and_reads_no_more_than_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: encoded(name) for name in PICTURES}
    for role in ("train", "test"):
        for kind in ("a", "b"):
            (tmp_path / role / kind).mkdir(parents=True)
            for name, data in files.items():
                (tmp_path / role / kind / name).write_bytes(data)
    wanted: dict[str, int] = {}
    for name, data in files.items():
        assert len(data) > HEAD, name
        for words in oddities(open_picture(data, name)):
            wanted[words] = wanted.get(words, 0) + 2
    assert len(wanted) >= 5
    read: dict[str, list[int]] = {name: [] for name in PICTURES}
    real = FolderSet.read

    def noted(self: FolderSet, index: int, most: int | None = None) -> tuple[str, bytes]:
        found = real(self, index, most)
        read[Path(found[0]).name].append(len(found[1]))
        return found

    monkeypatch.setattr(FolderSet, "read", noted)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        open_dataset("imagefolder", "test", size=32, root=tmp_path)
    (line,) = (str(w.message) for w in said if "pictures in" in str(w.message))
    assert {f"{count:,} {words}" for words, count in wanted.items()} == {
        *line.split(": ", 1)[1].split("; ")
    }
    for name in ("turned.jpg", "cmyk.jpg", "alpha.png", "plain.png", "turned.png", "grey16.png"):
        assert read[name] == [HEAD, HEAD], name
