"""The one place that opens pictures: which it takes, at which scale, what it refuses by name."""

from __future__ import annotations

import io
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from torchvision.transforms import functional as transforms

from robustbench_coss.datasets import geometry
from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.datasets.geometry import MOST_PIXELS, Geometry
from robustbench_coss.datasets.pictures import decode
from robustbench_coss.errors import CossError

RNG = np.random.default_rng(0)
LEVELS = RNG.integers(0, 256, (12, 9, 3), dtype=np.uint8)


def encoded(picture: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode(data, "x"))


def png(width: int, height: int, rows: bytes, bits: int = 8, colour: int = 2) -> bytes:
    """A PNG by its specification, whatever its header states."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# ---- formats ----


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "GIF", "JPEG"])
def test_every_format_of_the_list_is_read_by_its_content(format: str, tmp_path: Path) -> None:
    grey = Image.fromarray(np.repeat(LEVELS[:, :, :1], 3, axis=2))
    data = encoded(grey, format, **({"lossless": True} if format == "WEBP" else {}))
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(pixels(data), expected)
    if format != "JPEG":
        assert np.array_equal(expected, np.asarray(grey))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"


@pytest.mark.parametrize("where", ["folder", "shard", "ready-made", "show"])
def test_postscript_runs_no_program_whatever_its_ending_and_whoever_reads_it(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ran(*_: object, **__: object) -> None:
        raise AssertionError("another program was started")

    monkeypatch.setattr(subprocess, "Popen", ran)
    read_by(where, EPS, tmp_path, "none of JPEG")


def read_by(where: str, data: bytes, folder: Path, says: str) -> None:
    """Let a reader meet a file x.png with some bytes, and expect one line that names it."""
    for part in ("train", "test"):
        for name in ("a", "b"):
            (folder / part / name).mkdir(parents=True)
            Image.fromarray(LEVELS).save(folder / part / name / "x.png")
    bad = folder / "test/a/x.png"
    images = open_dataset("imagefolder", "test", size=8, root=folder)
    if where == "folder":
        bad.write_bytes(data)
        read = lambda: images.images([0])  # noqa: E731
    elif where == "shard":
        import tarfile

        for part in ("train", "test"):
            with tarfile.open(folder / f"s-{part}.tar", "w") as archive:
                for k, name in enumerate(("a", "b")):
                    (folder / "cls").write_text(str(k))
                    content = folder / part / name / "x.png"
                    if (part, name) == ("test", "a"):
                        content.write_bytes(data)
                    archive.add(content, f"{k}.png")
                    archive.add(folder / "cls", f"{k}.cls")
        shards = folder / "shards"
        shards.mkdir()
        for part in ("train", "test"):
            (folder / f"s-{part}.tar").rename(shards / f"{part}-0.tar")
        read = lambda: open_dataset("imagefolder", "test", size=8, root=shards).images([0])  # noqa: E731
    elif where == "ready-made":
        from robustbench_coss.evaluations.corruptions.published import open_ready_made
        from robustbench_coss.evaluations.corruptions.reference import NAMES

        for name in NAMES:
            for severity in range(1, 6):
                for category in ("a", "b"):
                    place = folder / "C" / name / str(severity) / category
                    place.mkdir(parents=True)
                    (place / "x.png").write_bytes(data)
        read = lambda: open_ready_made(folder / "C", images).images("snow", 1, [0])  # noqa: E731
    else:
        from robustbench_coss.evaluations.show import read_image

        bad.write_bytes(data)
        read = lambda: read_image(bad, 8)  # noqa: E731
    with pytest.raises(CossError, match=says) as error:
        read()
    assert ".png" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "head", [b"%PDF-1.4\n", b"SIMPLE  =                    T", b"\x00\x00\x01\x00"]
)
def test_other_formats_are_refused(head: bytes) -> None:
    with pytest.raises(CossError, match="none of JPEG"):
        decode(head + bytes(200), "x.png")


def test_a_format_that_a_plug_in_of_pillow_registers_is_not_read() -> None:
    Image.register_open("PLUGIN", lambda *_: pytest.fail("a plug-in was asked"), lambda head: True)
    try:
        with pytest.raises(CossError, match="none of JPEG"):
            decode(b"plug-in", "x.png")
    finally:
        Image.OPEN.pop("PLUGIN")
        Image.ID.remove("PLUGIN")


# ---- sizes ----


@pytest.mark.parametrize("where", ["folder", "shard", "ready-made", "show"])
def test_a_picture_of_too_many_pixels_is_named_by_every_reader(where: str, tmp_path: Path) -> None:
    read_by(where, png(10_000, 10_000, b""), tmp_path, "more than 67,108,864 pixels")


@pytest.mark.slow
def test_too_many_pixels_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    code = (
        "import resource, sys\n"
        "from robustbench_coss.datasets.pictures import decode\n"
        "from robustbench_coss.errors import CossError\n"
        "for path in sys.argv[1:]:\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    try:\n        decode(open(path, 'rb').read(), 'x')\n"
        "    except CossError as error:\n        print(error)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    sides = [8_193, 10_000, 13_370, 65_000, 2**31 - 1]  # what each would take is more than before
    paths = [tmp_path / f"{side}.png" for side in sides]
    for side, path in zip(sides, paths, strict=True):
        path.write_bytes(png(side, side, bytes(10_000)))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *paths],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(sides)
    for side, message, kilobytes in zip(sides, lines[::2], lines[1::2], strict=True):
        assert "pixels" in message, side
        assert int(kilobytes) < 20_000, side


def test_the_largest_picture_has_as_many_pixels_as_the_documentation_says() -> None:
    assert MOST_PIXELS == 2**26
    assert resource.getpagesize() > 0
    limits = Path(__file__).parents[3] / "docs" / "limits.md"
    assert f"{MOST_PIXELS:,} pixels" in limits.read_text(encoding="utf-8")


@pytest.mark.parametrize(("width", "height"), [(2_000, 1), (1, 1_501), (900, 2)])
def test_the_centre_of_a_thin_picture_is_the_same_without_enlarging_all_of_it(
    width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))
    expected = transforms.center_crop(transforms.resize(picture, 37), 32)
    monkeypatch.setattr(geometry, "MOST_PIXELS", 1)
    found = Geometry().cut(picture, 32)
    difference = np.asarray(found).astype(int) - np.asarray(expected).astype(int)
    assert np.abs(difference).max() <= 1


def test_a_picture_of_20000_by_1_is_read_at_224_px() -> None:
    picture = Image.fromarray(RNG.integers(0, 256, (1, 20_000, 3), dtype=np.uint8))
    assert Geometry().cut(picture, 224).size == (224, 224)


# ---- numbers ----

RAMP = np.linspace(0, 65_535, 108).round().astype(np.uint16).reshape(9, 12)


def sixteen(kind: str) -> bytes:
    big = RAMP.astype(">u2").tobytes()
    if kind == "png":
        rows = b"".join(b"\0" + RAMP[k].astype(">u2").tobytes() for k in range(9))
        return png(12, 9, rows, bits=16, colour=0)
    if kind == "pgm":
        return b"P5 12 9 65535\n" + big
    order, data, prefix = (">", big, b"MM") if kind == "tiff-big" else ("<", RAMP.tobytes(), b"II")
    white_is_zero = kind == "tiff-inverted"
    if white_is_zero:
        data = (65_535 - RAMP).astype("<u2").tobytes()
    return tiff(order, prefix, data, 16, 1, photometric=0 if white_is_zero else 1)


def tiff(
    order: str, prefix: bytes, data: bytes, bits: int, sample: int, photometric: int = 1
) -> bytes:
    """A grey TIFF of 12 × 9 pixels in one strip, by TIFF 6.0."""
    entries = [(256, 12), (257, 9), (258, bits), (259, 1), (262, photometric), (273, 8)]
    entries += [(277, 1), (278, 9), (279, len(data)), (339, sample)]
    body = struct.pack(order + "H", len(entries))
    for tag, value in entries:
        body += struct.pack(order + "HHIHH", tag, 3, 1, value, 0)
    head = prefix + struct.pack(order + "HI", 42, 8 + len(data))
    return head + data + body + struct.pack(order + "I", 0)


@pytest.mark.parametrize("kind", ["png", "pgm", "tiff-little", "tiff-big", "tiff-inverted"])
def test_sixteen_bits_of_grey_keep_their_scale(kind: str) -> None:
    expected = np.round(RAMP / 257).astype(np.uint8)  # 65,535 / 255
    assert np.array_equal(pixels(sixteen(kind)), np.repeat(expected[:, :, None], 3, axis=2))


def test_twelve_bits_of_a_tiff_are_scaled_by_twelve_bits() -> None:
    levels = np.arange(0, 4_096, 38)[:108].reshape(9, 12)
    pairs = levels.reshape(-1, 2)
    packed = np.stack(
        [pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1
    )
    found = pixels(tiff("<", b"II", packed.astype(np.uint8).tobytes(), 12, 1))
    assert np.abs(found[:, :, 0] - levels * 255 / 4_095).max() <= 0.5


@pytest.mark.parametrize(
    ("code", "bits", "sample"), [("<i4", 32, 2), ("<u4", 32, 1), ("<f4", 32, 3), ("<i2", 16, 2)]
)
def test_numbers_of_no_known_scale_are_refused(code: str, bits: int, sample: int) -> None:
    data = tiff("<", b"II", RAMP.astype(code).tobytes(), bits, sample)
    with pytest.raises(CossError, match=r"x\.tif cannot be read \(it holds .* numbers"):
        decode(data, "x.tif")


def test_a_floating_point_pfm_is_refused() -> None:
    with pytest.raises(CossError, match="floating-point"):
        decode(b"Pf\n12 9\n-1.0\n" + RAMP.astype("<f4").tobytes(), "x.pfm")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_are_what_torchvision_reads(mode: str) -> None:
    source = Image.fromarray(LEVELS).convert(mode)
    if mode in ("LA", "RGBA"):
        source.putalpha(Image.fromarray(LEVELS[:, :, 0]))
    options = {"transparency": bytes(range(256))} if mode == "P" else {}
    format = {"CMYK": "JPEG", "YCbCr": "TIFF"}.get(mode, "PNG")
    data = encoded(source, format, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))  # datasets.folder.pil_loader
    assert np.array_equal(pixels(data), expected)


def test_a_profile_is_not_applied() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    data = encoded(Image.fromarray(LEVELS), "PNG", icc_profile=profile)
    assert np.array_equal(pixels(data), LEVELS)


# ---- what is said ----


def test_pictures_that_are_seen_in_another_way_than_some_programs_show_are_counted(
    tmp_path: Path,
) -> None:
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(LEVELS).save(tmp_path / part / name / "plain.png")
    odd = tmp_path / "test/a"
    exif = Image.Exif()
    exif[0x0112] = 6
    for k in range(3):
        Image.fromarray(LEVELS).save(odd / f"turned{k}.{'png' if k else 'jpg'}", exif=exif)
    Image.fromarray(LEVELS).convert("RGBA").save(odd / "alpha.png")
    Image.fromarray(LEVELS).convert("P").save(odd / "palette.png", transparency=0)
    (odd / "grey.png").write_bytes(sixteen("png"))
    frames = [Image.fromarray(LEVELS), Image.fromarray(255 - LEVELS)]
    frames[0].save(odd / "moving.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="of the 9 pictures in") as said:
        images = open_dataset("imagefolder", "test", size=8, root=tmp_path)
    text = str(said[0].message)
    assert "3 with an orientation" in text
    assert "2 with transparency" in text
    assert "1 of several frames" in text
    assert "1 of 9 to 16 bits" in text
    turned = [images.raw(i) for i in range(9)][6:]  # by name: … plain, turned0, turned1, turned2
    assert all(tuple(picture.shape) == (3, 12, 9) for picture in turned)
