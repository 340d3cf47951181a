"""The IDX file format of MNIST and its successors: big-endian arrays of bytes, often gzipped.

Only unsigned bytes are read, the one type that these data sets use. Format: Y. LeCun, C. Cortes
and C. J. C. Burges, "The MNIST database of handwritten digits", section "File formats".
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.reading import open_regular

_UNSIGNED_BYTE = 0x08
# A header declares its array's size, so a forged one could ask for any amount of memory. The
# largest real file (60,000 images of 28 x 28) holds 47 MB.
_LARGEST = 1 << 27


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzipped or plain (told apart by its first bytes).

    Args:
        path: the file.
        ndim: dimensions that the array must have: 3 for images, 1 for labels.

    Returns:
        uint8 array of the shape that the header declares.

    Raises:
        CossError: the file cannot be read, is truncated or too long, or holds no such array.
    """
    with explain_os_errors("read", path), BufferedReader(open_regular(path)) as raw:
        gzipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            if gzipped:
                with gzip.GzipFile(fileobj=raw) as unpacked:
                    return _parse(cast(BinaryIO, unpacked), ndim)
            return _parse(raw, ndim)
        except (EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
            raise CossError(f"{path} is damaged ({error}); download or copy it again") from error


def _parse(file: BinaryIO, ndim: int) -> NDArray[np.uint8]:
    magic = file.read(4)
    if magic != bytes((0, 0, _UNSIGNED_BYTE, ndim)):
        raise ValueError(f"it starts with {magic.hex() or 'nothing'}, not 000008{ndim:02x}")
    header = file.read(4 * ndim)
    if len(header) != 4 * ndim:
        raise ValueError("its header is truncated")
    shape = struct.unpack(f">{ndim}I", header)
    size = math.prod(shape)
    if size > _LARGEST:
        raise ValueError(f"it declares {size} bytes, more than any data set of this kind has")
    data = file.read(size + 1)
    if len(data) != size:
        held = f"only {len(data)}" if len(data) < size else "more"
        raise ValueError(f"it declares {size} bytes and holds {held}")
    # A copy, since arrays over `bytes` are read-only, which torch.from_numpy warns of.
    return np.frombuffer(data, np.uint8).reshape(shape).copy()
