"""Reading and writing files so that a crash never leaves half of one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from robustbench_coss.errors import explain_os_errors


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file whole or not at all: to a temporary file beside it, synced, then renamed.

    Raises:
        CossError: the folder cannot be made or written (says why: full disk, permission, …).
    """
    payload = data.encode() if isinstance(data, str) else data
    with explain_os_errors("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def cache_folder() -> Path:
    """Where what can be made again is kept for the next process: the user's cache (XDG)."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "robustbench-coss"


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_of(value: Any) -> str:
    """Hex SHA-256 of a JSON-able value, of bytes, or of the file at a Path."""
    digest = hashlib.sha256()
    if isinstance(value, Path):
        with explain_os_errors("read", value), value.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    elif isinstance(value, bytes):
        digest.update(value)
    else:
        digest.update(canonical_json(value).encode())
    return digest.hexdigest()


def slug(name: str) -> str:
    """A name made safe for one path component: letters, digits, `.`, `_`, `+` and `-`."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.") or "unnamed"
