"""Encoded pictures that are decoded when they are asked for, wherever their bytes lie.

The one place that opens pictures: in folders, in tar shards, corrupted before, or to be shown.
Not a data set itself.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from robustbench_coss.datasets.geometry import MOST_PIXELS, USUAL, Geometry
from robustbench_coss.errors import CossError, one_line
from robustbench_coss.machine.environment import cores

ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""Of files that are taken for pictures; what a picture is, its content says."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What is decoded: nothing that Pillow hands to another program (PostScript), none of a plug-in."""

MOST_BYTES = 256 << 20  # of an encoded picture
HEAD, HEADED = 1 << 16, ("JPEG", "PNG")  # bytes of a header, and whose comes first and says it all
LOOKED_AT = 1_000  # pictures of a set whose headers are looked at
_SIXTEEN = ("I;16", "I;16B", "I;16L", "I;16N")
_ORIENTATION = 0x0112  # Exif 2.3, tag 274; 1 is upright
_BITS, _PHOTOMETRIC = 258, 262  # TIFF 6.0

_opening = threading.Lock()  # warnings are silenced for all threads at once


class BadPicture(CossError):
    """A picture that is missing, damaged, or of a kind that is not read."""


def open_picture(data: bytes, where: str) -> Image.Image:
    """The header of an encoded picture, nothing decoded yet.

    Args:
        where: the picture lies, for messages.

    Raises:
        BadPicture: of no known format, or too large.
    """
    if len(data) > MOST_BYTES:
        raise _refused(where, f"it has {len(data):,} bytes, more than {MOST_BYTES:,}")
    try:
        with _opening, warnings.catch_warnings(action="ignore"):
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _refused(where, f"it has more than {MOST_PIXELS:,} pixels", _SHRINK) from error
    except UnidentifiedImageError as error:
        raise _refused(where, f"its content is none of {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow's decoders raise whatever damaged files lead them to
        raise _damaged(where, error) from error
    width, height = picture.size
    if width * height > MOST_PIXELS:
        raise _refused(where, f"{width} × {height}, more than {MOST_PIXELS:,} pixels", _SHRINK)
    return picture


_SHRINK = "shrink it or remove it"


def decode(data: bytes, where: str) -> Image.Image:
    """An encoded picture in RGB, as torchvision's `ImageFolder` gives it but for 16 bits of grey.

    The first frame, as it is stored: not turned by the orientation that a camera noted. An alpha
    channel is dropped, whatever colour lies below. Grey of 9 to 16 bits is brought to 8 by its full
    scale; Pillow would cut it off at 255.

    Raises:
        BadPicture: as `open_picture`; damaged; or numbers of no known scale (32 bits, signed,
            floating point).
    """
    picture = open_picture(data, where)
    sixteen_bits = picture.mode in _SIXTEEN or (
        picture.mode == "I" and picture.format in ("PNG", "PPM")
    )
    if picture.mode[0] in "IF" and not sixteen_bits:
        kind = "floating-point" if picture.mode == "F" else "signed or 32-bit"
        raise _refused(
            where, f"it holds {kind} numbers, whose black and white nothing states", _EIGHT_BITS
        )
    try:
        picture.load()
        picture.info.pop("transparency", None)  # dropped either way; Pillow would warn of it
        if sixteen_bits:
            return Image.fromarray(_eight_bits(picture)).convert("RGB")
        return picture.convert("RGB")
    except Exception as error:
        raise _damaged(where, error) from error


_EIGHT_BITS = "save it with 8 or 16 bits"


def _eight_bits(picture: Image.Image) -> NDArray[np.uint8]:
    """[H, W] of grey at up to 16 bits: value / largest possible value, in 255ths."""
    tags = getattr(picture, "tag_v2", {})
    bits = tags.get(_BITS, (16,))[0]
    levels = np.asarray(picture).astype(np.uint32)
    most = (1 << bits) - 1
    scaled = (levels * 510 + most) // (2 * most)  # rounded to nearest
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow heeds up to 8 bits only
        scaled = 255 - scaled
    return np.asarray(scaled, np.uint8)


def _refused(where: str, reason: str, remedy: str = "convert it or remove it") -> BadPicture:
    return BadPicture(f"picture {where} cannot be read ({reason}); {remedy}")


def _damaged(where: str, error: Exception) -> BadPicture:
    reason = one_line(error)
    return _refused(where, reason, "copy it again or remove it")


def oddities(picture: Image.Image) -> list[str]:
    """What of a picture is not seen as some programs show it, in words that follow a number."""
    try:
        exif = picture.info.get("exif")
        # Of a PNG, getexif() decodes the pixels.
        known = Image.Exif() if picture.format == "PNG" else picture.getexif()
        if picture.format == "PNG" and exif:
            known.load(exif)
        turned = known.get(_ORIENTATION, 1) != 1
    except Exception:  # damaged metadata; the pixels may be whole
        turned = False
    alpha = picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info
    frames = picture.format != "MPO" and getattr(picture, "is_animated", False)
    return [
        words
        for words, found in (
            ("with an orientation noted by the camera (read as stored)", turned),
            ("with transparency (dropped)", alpha),
            ("of several frames (the first is read)", frames),
            ("in CMYK (converted without a profile)", picture.mode == "CMYK"),
            ("of 9 to 16 bits (scaled to 8)", picture.mode in _SIXTEEN or picture.mode == "I"),
        )
        if found
    ]


class PictureSet:
    """The decoding half of an `ImageSet`; subclasses say where the bytes of a picture are.

    Attributes:
        size: side of the images that `images` gives, in px.
        geometry: how pictures become that large.
        cuts: whether it is by `geometry`.
        workers: threads that decode; None for one per core.
    """

    name: str
    role: str
    fingerprint: str
    size: int
    geometry: Geometry = USUAL
    cuts: bool = True
    workers: int | None = None

    def __len__(self) -> int:
        raise TypeError(f"{type(self).__name__} must define __len__()")

    def read(self, index: int, most: int | None = None) -> tuple[str, bytes]:
        """Where a picture lies, in words for messages, and its encoded bytes, or the first `most`.

        Raises:
            CossError: it is missing or, asked for whole, too large.
        """
        raise TypeError(f"{type(self).__name__} must define read()")

    def images(self, indices: Sequence[int]) -> Tensor:
        """[B, 3, size, size] uint8, by `geometry`: unless a model states its own, the usual one of
        ImageNet models, the shorter side to size * 256 / 224, of which the centre.

        Raises:
            BadPicture: a picture is missing or damaged.
        """
        if not indices:
            return torch.zeros((0, 3, self.size, self.size), dtype=torch.uint8)
        threads = min(self.workers or cores(), len(indices))
        if threads == 1:
            return torch.stack([self.image(i) for i in indices])
        with ThreadPoolExecutor(threads) as pool:  # Pillow works outside the interpreter's lock
            return torch.stack(list(pool.map(self.image, indices)))

    def image(self, index: int) -> Tensor:
        """[3, size, size] uint8: one of `images`."""
        return as_tensor(self.geometry.cut(self._picture(index), self.size))

    def raw(self, index: int) -> Tensor:
        """[3, H, W] uint8: the whole picture.

        Raises:
            BadPicture: the picture is missing or damaged.
        """
        return as_tensor(self._picture(index))

    def _picture(self, index: int) -> Image.Image:
        try:
            where, data = self.read(index)
        except BadPicture:
            raise
        except CossError as error:
            raise BadPicture(str(error)) from error
        return decode(data, where)

    def say_oddities(self, where: str) -> None:
        """Warn of pictures that are not seen as some programs show them, and how many there are.

        Of a large set, the headers of `LOOKED_AT` pictures are looked at, evenly spread.
        """
        count = len(self)
        chosen = np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(int)).tolist()
        found: Counter[str] = Counter()
        for index in chosen:
            try:
                found.update(self._oddities(index))
            except CossError:
                continue  # named where it is needed
        if found:
            among = f"{len(chosen):,}" + (f" looked at of {count:,}" if len(chosen) < count else "")
            said = "; ".join(f"{number:,} {words}" for words, number in found.items())
            warnings.warn(f"of the {among} pictures in {where}: {said}", stacklevel=1)

    def _oddities(self, index: int) -> list[str]:
        with suppress(CossError):  # a header that goes on beyond what was read
            where, data = self.read(index, HEAD)
            picture = open_picture(data, where)
            if picture.format in HEADED:
                return oddities(picture)
        where, data = self.read(index)
        return oddities(open_picture(data, where))


def as_tensor(picture: Image.Image) -> Tensor:
    """[3, H, W] uint8 of an RGB picture."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
