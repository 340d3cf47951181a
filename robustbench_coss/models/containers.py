"""Files of safetensors and torch, opened within limits.

Nothing in them is executed (`weights_only`), and none makes memory be taken for more than it holds:
compressed members, tensors that repeat a few values, and values that hold one another are refused
before anything is made of them.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from robustbench_coss.errors import CossError, one_line
from robustbench_coss.models.stubs import READER, parts, plain
from robustbench_coss.reading import MIB, check_regular, count_nodes, open_regular

MOST_HEADER = 16 * MIB  # bytes of a safetensors header: some 150 for a tensor
MOST_PICKLE = 64 * MIB  # bytes of the values beside the tensors
MOST_DIRECTORY = 16 * MIB  # bytes of a zip archive's list of members
MOST_VALUES = 2_000_000  # beside the tensors, with what is shared written out
MOST_REPEATED = 256 * MIB  # bytes of a tensor that repeats fewer stored ones
SPARE = 1280 * MIB  # bytes that all tensors may take beyond four times those of the file


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file.

    Raises:
        CossError: no regular file, truncated, damaged, or with a header of unreasonable size.
    """
    size = check_regular(path)
    with open_regular(path) as file:
        header = int.from_bytes(file.read(8), "little")
    if size >= 8 and header > MOST_HEADER:
        raise CossError(
            f"{path} is truncated or not a safetensors file (its header would have {header:,} "
            f"bytes, more than {MOST_HEADER:,}); export or copy it again"
        )
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            return opened.metadata() or {}, tensors
    except Exception as error:  # the library and torch have many kinds
        reason = one_line(error)
        raise CossError(
            f"{path} is truncated or not a safetensors file ({reason}); export or copy it again"
        ) from error


def load_torch(path: Path, *, stubs: bool = False) -> Any:
    """What `torch.save` wrote: tensors, mapped from a zip archive, and plain values.

    Args:
        path: the file.
        stubs: give settings of known kinds as dictionaries, and stubs for objects of other classes;
            without it, a file that holds any is refused.

    Raises:
        CossError: no regular file, or content that would take more memory than the file has bytes.
        Exception: of the kinds that pickle, zipfile and torch have; truncated, foreign or hostile.
    """
    size = check_regular(path)
    zipped = zipfile.is_zipfile(path)
    if zipped:
        _check_zip(path, size)
    else:
        with open_regular(path) as file:
            _check_pickle(path, file.read(MOST_PICKLE))
    # Warnings are of protocols and of how long sparse tensors take.
    with warnings.catch_warnings(action="ignore"):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        except pickle.UnpicklingError:  # of a class or a protocol that torch does not open
            if not stubs:
                raise
            # `READER` calls nothing that a file names; torch has found no TorchScript, no archive.
            content = torch.load(
                path, map_location="cpu", weights_only=False, pickle_module=READER, mmap=zipped
            )
    try:
        count_nodes(content, MOST_VALUES, parts)
        _check_tensors(content, size)
    except (ValueError, RecursionError) as error:
        raise _hostile(path, str(error)) from error
    return plain(content) if stubs else content


def _check_zip(path: Path, size: int) -> None:
    with open_regular(path) as file:
        ends: Any = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if ends is not None and ends[5] > MOST_DIRECTORY:  # before an object is made of each member
        raise _hostile(path, f"its list of members has {ends[5]:,} bytes")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.filename.endswith("/constants.pkl") for member in members):
            return  # TorchScript, which torch.load refuses by its name
        if packed := [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]:
            raise _hostile(path, f"{packed[0]} in it is compressed, which torch does not do")
        if sum(member.file_size for member in members) > size:
            raise _hostile(path, "its members overlap")
        for member in members:
            if member.filename.endswith("data.pkl"):
                if member.file_size > MOST_PICKLE:
                    raise _hostile(path, f"{member.file_size:,} bytes of values beside the tensors")
                _check_pickle(path, archive.read(member))


def _check_pickle(path: Path, data: bytes) -> None:
    # One of the few calls that torch allows, and one that takes as many bytes as it is told.
    if re.search(rb"c(__builtin__|builtins)\nbytearray\n", data):
        raise _hostile(path, "it makes a bytearray")


def _check_tensors(content: Any, size: int) -> None:
    """Raise ValueError where tensors would take far more memory than the file has bytes."""
    seen: dict[int, Any] = {}
    total = 0
    todo = [content]
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        todo.extend(parts(value))
        if isinstance(value, Tensor) and value.layout == torch.strided:
            taken = value.numel() * value.element_size()
            if taken > max(size, MOST_REPEATED):
                raise ValueError(f"a tensor of shape {list(value.shape)[:8]} repeats few values")
            total += taken
    if total > 4 * size + SPARE:
        raise ValueError(f"its tensors would take {total:,} bytes, and the file has {size:,}")


def _hostile(path: Path, reason: str) -> CossError:
    return CossError(
        f"{path} is damaged or made to harm ({reason}); get it from where it came from again, or "
        "save the state dict alone with the tool that wrote it"
    )
