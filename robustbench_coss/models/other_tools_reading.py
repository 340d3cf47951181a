"""Opening files of strangers: tensors and plain values or a refusal; nothing is executed."""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustbench_coss.errors import CossError
from robustbench_coss.models.containers import load_torch, read_safetensors
from robustbench_coss.models.export_source import SOURCE
from robustbench_coss.reading import open_regular, parse_json

# What tools keep beside their tensors and what constructs nothing but values: the arguments of a
# run (DINO) and numbers of numpy (metrics in Lightning's callbacks), under the names that numpy 1
# and 2 give the same function. The classes of data types are what `numpy.dtype` makes.
_SCALAR = np.float64(0).__reduce__()[0]
ALLOWED: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]


class Ignored:
    """Stands for a value that is not needed: takes any arguments and state, and drops them."""

    def __new__(cls, *_: Any) -> Ignored:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


IGNORED = (
    # Histories of losses, which mmengine keeps in every checkpoint that it saves while training
    # (mmengine/logging/history_buffer.py), and the arrays in them.
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    # Folders among the arguments of a run.
    "pathlib.PosixPath",
    "pathlib._local.PosixPath",
)
"""Names in whose place a file gets `Ignored`: what they name is neither imported nor called."""


Content = tuple[dict[str, Any], Mapping[str, Any]]
"""What a file holds, and what an export of this tool says about itself, else nothing."""


def read_file(path: Path) -> Content:
    """The content of a file of `torch.save` or safetensors."""
    if path.is_dir():
        raise CossError(f"{path} is a folder; pass a checkpoint file")
    with open_regular(path) as file:
        head = file.read(9)
    export: Any = None
    if head[8:9] == b"{":
        content, export = _read_safetensors(path)
    else:
        content = _read_torch(path, head)
        if isinstance(content, dict):
            export = content.get(SOURCE)
    if not isinstance(content, dict) or not _holds_tensor(content):
        raise CossError(
            f"{path} holds no tensors under names; pass a checkpoint or a saved state dict"
        )
    return content, export if isinstance(export, dict) else {}


def _read_safetensors(path: Path) -> tuple[dict[str, Any], Any]:
    metadata, tensors = read_safetensors(path)
    stated = metadata.get(SOURCE)
    export: Any = None
    if stated is not None:
        with suppress(ValueError):
            export = parse_json(stated)
    return tensors, export


def _read_torch(path: Path, head: bytes) -> Any:
    if head[:2] == b"PK" and not zipfile.is_zipfile(path):
        raise CossError(f"{path} is truncated; copy it again")
    try:
        with torch.serialization.safe_globals(ALLOWED + [(Ignored, name) for name in IGNORED]):
            return load_torch(path)
    except CossError:
        raise
    except Exception as error:  # pickle, zip and torch have their own kinds
        refused = re.search(r"GLOBAL (\S+)|global (\S+) ", str(error))
        if refused:
            name = refused.group(1) or refused.group(2)
            raise CossError(
                f"{path} holds an object of type {name}, which is not opened: that could execute "
                "code; load it with the tool that wrote it and save the state dict alone"
            ) from error
        reason = " ".join(str(error).split())[:100]
        raise CossError(
            f"{path} is truncated or not a checkpoint ({type(error).__name__}: {reason}); "
            "copy it again"
        ) from error


def _holds_tensor(content: Any) -> bool:
    if isinstance(content, dict):
        return any(_holds_tensor(value) for value in content.values())
    return isinstance(content, Tensor)
