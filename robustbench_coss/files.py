"""Reading and writing files so that a crash never leaves half of one, nor two processes a mixture.

What a killed process leaves is a temporary file or a lock with a name of its own; the next process
that writes to the folder removes it, and nobody counts it as content.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.reading import from_home

if TYPE_CHECKING:
    import pandas as pd

LOCK = ".coss-folder.lock"
"""Name of the lock of a folder that one process at a time may write to."""

_LEFTOVER = re.compile(r"\.coss-.+\.(tmp|lock)")


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file whole or not at all: to a temporary file beside it, synced, then renamed.

    Raises:
        CossError: the folder cannot be made or written (says why: full disk, permission, …), or
            the path is a folder, a device or a pipe.
    """
    payload = data.encode() if isinstance(data, str) else data
    with explain_os_errors("write", path):
        if path.exists() and not path.is_file():
            raise CossError(f"cannot write {path}: it is not a regular file; choose another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        handle, temporary = _locked_temporary(path.parent)
        lock = os.dup(handle)  # until it has its name, it must not be taken for a leftover
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
        finally:
            os.close(lock)


def write_chosen(path: Path, data: bytes | str, *, force: bool, mark: bytes | None = None) -> None:
    """Write a file where a user asked for it, over another one only if that is of the same kind.

    Args:
        force: replace any regular file.
        mark: what files of this kind hold near their beginning or end, beside the first bytes of
            their format; None for their first line.

    Raises:
        CossError: another file is there, or as `write_atomically`.
    """
    payload = data.encode() if isinstance(data, str) else data
    with explain_os_errors("write", path):
        path = path.resolve()  # a link stays one
        if path.is_file() and path.stat().st_size and not force:
            with path.open("rb") as file:
                begins = file.read(1 << 16)
                file.seek(max(0, path.stat().st_size - (1 << 16)))
                ends = file.read(1 << 16)
            start = _first_line(payload) if mark is None else payload[:2]
            if not begins.startswith(start) or (mark or b"") not in begins + ends:
                raise CossError(
                    f"{path} exists and is not what this command writes; pass --force to replace "
                    "it, or another --out"
                )
    write_atomically(path, payload)


def _first_line(data: bytes) -> bytes:
    """What a text begins with: its first line, or more where that says little."""
    line = data.split(b"\n", 1)[0]
    return line + b"\n" if len(line) >= 8 else data[:40]


def csv_text(table: pd.DataFrame) -> str:
    """A table as CSV, numbers at full precision; no text of it is a formula to a spreadsheet.

    A text that begins with `=`, `+`, `-`, `@` or a tab and is no number gets an apostrophe before
    it (OWASP, CSV injection), and a carriage return becomes a space.
    """
    plain = table.rename(columns=_no_formula).map(_no_formula)
    return str(plain.to_csv(index=False, lineterminator="\n"))


def _no_formula(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    value = value.replace("\r", " ")  # pandas leaves it unquoted: readers see a new row
    if not value.startswith(("=", "+", "-", "@", "\t")):
        return value
    with suppress(ValueError):
        float(value)
        return value
    return f"'{value}"


def _locked_temporary(folder: Path) -> tuple[int, str]:
    """A new temporary file, open and locked."""
    while True:
        handle, name = tempfile.mkstemp(dir=folder, prefix=".coss-", suffix=".tmp")
        # Another process may lock and remove it before it is locked here: its lock is waited for.
        if not _lock(handle, wait=True) or os.fstat(handle).st_nlink:
            return handle, name
        os.close(handle)


def _lock(handle: int, wait: bool = False) -> bool:
    """Lock an open file for this process; False where another has, unless that is waited for, or
    where there are no locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def is_leftover(path: Path) -> bool:
    """Whether a path is named like the temporary files and locks that killed processes leave."""
    return _LEFTOVER.fullmatch(path.name) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left in a folder; what is in use is left alone."""
    with suppress(OSError):
        for path in folder.iterdir():
            if is_leftover(path) and path.is_file() and not path.is_symlink():
                with suppress(OSError), path.open("rb") as file:
                    if _lock(file.fileno()):
                        path.unlink()


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder that goes at the end; those that killed processes left go first.

    Raises:
        CossError: there is no temporary folder that can be written to.
    """
    try:
        top = Path(tempfile.gettempdir())
        for old in top.glob(f"{prefix}*"):
            with suppress(OSError):
                _remove_unlocked(old)
        folder, handle = _locked_folder(prefix, top)
    except OSError as error:
        raise CossError(
            f"no temporary folder can be used ({error.strerror or error}); "
            "set TMPDIR to a folder that can be written to"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _locked_folder(prefix: str, top: Path) -> tuple[Path, int]:
    """A new folder, locked, and the handle that holds the lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=top))
        # Another process may lock and remove it before it is locked here, as a leftover.
        with suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY)
            if not _lock(handle, wait=True) or folder.is_dir():
                return folder, handle
            os.close(handle)


def _remove_unlocked(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        if _lock(handle):
            shutil.rmtree(folder)
    finally:
        os.close(handle)


@contextmanager
def alone(lock: Path, busy: str) -> Iterator[None]:
    """Keep other processes off what a lock file stands for, which goes again at the end.

    A folder that is made for the file goes with it if nothing else was put there.

    Args:
        busy: what another process that holds the lock is doing, and where.

    Raises:
        CossError: one does, or the file cannot be made.
    """
    folder = lock.parent
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    held = FileLock(lock, blocking=False)
    with explain_os_errors("write to", folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire()
        except Timeout as error:
            raise CossError(f"another process is {busy}; wait for it, or stop it") from error
    try:
        yield
    finally:
        # Removed while it is held: who waits for a file that is gone starts over with a new one.
        with suppress(OSError):
            lock.unlink()
        held.release()
        with suppress(OSError):
            for each in made:
                each.rmdir()


def cache_folder() -> Path:
    """Where what can be made again is kept for the next process: the user's cache (XDG).

    Raises:
        CossError: the user has no home folder, and no other one is named.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # Relative ones are to be ignored, by the XDG Base Directory Specification.
    if not root.is_absolute():
        home = from_home("~")  # left as it is where there is none
        if not home.is_absolute():
            raise CossError("you have no home folder to keep a cache in; set XDG_CACHE_HOME")
        root = home / ".cache"
    return root / "robustbench-coss"


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
