"""Encoded pictures that are decoded when they are asked for, wherever their bytes lie.

What sets of picture files (`folder`) and of tar shards (`shards`) share; not a data set itself.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustbench_coss.errors import CossError

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class PictureSet:
    """The decoding half of an `ImageSet`; subclasses say where the bytes of a picture are.

    Attributes:
        size: side of the images that `images` gives, in px.
    """

    size: int

    def read(self, index: int) -> tuple[str, bytes]:
        """Where a picture lies, in words for messages, and its encoded bytes."""
        raise TypeError(f"{type(self).__name__} must define read()")

    def images(self, indices: Sequence[int]) -> Tensor:
        """[B, 3, size, size] uint8: shorter side to size * 256 / 224, then the centre is cut out.

        The usual evaluation of ImageNet models (256 and 224 px), bilinear with antialiasing.

        Raises:
            CossError: a picture is missing or damaged.
        """
        # Imported here: listing data sets must not cost torchvision's start-up time.
        from torchvision.transforms import functional as transforms

        shorter = round(self.size * 256 / 224)
        cut = [
            transforms.center_crop(transforms.resize(self._picture(i), shorter), self.size)
            for i in indices
        ]
        if not cut:
            return torch.zeros((0, 3, self.size, self.size), dtype=torch.uint8)
        return torch.stack([_tensor(picture) for picture in cut])

    def raw(self, index: int) -> Tensor:
        """[3, H, W] uint8: the whole picture.

        Raises:
            CossError: the picture is missing or damaged.
        """
        return _tensor(self._picture(index))

    def _picture(self, index: int) -> Image.Image:
        where, data = self.read(index)
        try:
            return Image.open(io.BytesIO(data)).convert("RGB")
        except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
            reason = str(error).split(" <_io.BytesIO")[0]  # "cannot identify image file <…>"
            raise _damaged(where, reason) from error
        except Image.DecompressionBombError as error:
            raise _damaged(where, str(error)) from error


def _damaged(where: str, reason: str) -> CossError:
    return CossError(
        f"picture {where} cannot be read ({' '.join(reason.split())}); copy it again or remove it"
    )


def _tensor(picture: Image.Image) -> Tensor:
    """[3, H, W] uint8 of an RGB picture."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
