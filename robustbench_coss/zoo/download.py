"""Files of published checkpoints: downloaded once, resumed, and held to the published digest."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.progress import DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.files import alone, cache_folder, write_atomically
from robustbench_coss.machine.terminal import Screen, progress_bar, say
from robustbench_coss.zoo.entries import Entry

CHUNK = 1 << 20  # bytes
SECONDS = 30.0
"""Without a byte for so long, a download counts as cut off."""

Report = Callable[[int, int | None], None]
"""Called with the bytes that are there and all there will be, if that is known."""


def file_of(entry: Entry, report: Report | None = None) -> Path:
    """The file of a checkpoint, from the cache or downloaded.

    A download that was cut off goes on where it ended if the server has the same file still. The
    file has its name only once it is whole and has the published digest.

    Raises:
        CossError: it cannot be downloaded, is cut off, or is another than was published.
    """
    folder = cache_folder() / "zoo" / entry.name
    path = folder / Path(urlsplit(entry.source).path).name
    if path.is_file():
        _check(entry, path)
        return path
    with alone(folder / "download.lock", f"downloading {entry.name} to {folder}"):
        if not path.is_file():
            part = path.with_name(f"{path.name}.part")
            _download(entry, part, path, report or (lambda done, total: None))
            _tag(part).unlink(missing_ok=True)
            _check(entry, part)
            with explain_os_errors("write", path):
                os.replace(part, path)
    return path


@contextmanager
def downloading(name: str) -> Iterator[Report]:
    """What shows a download's progress on a terminal; a line where there is none."""
    screen = Screen(stderr=True)
    columns = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with progress_bar(screen, *columns) as bar:
        task = bar.add_task(f"downloading {name}", total=None, visible=False)
        began = False

        def report(done: int, total: int | None) -> None:
            nonlocal began
            if not began and not screen.is_terminal:
                size = "" if total is None else f" ({total / 1e6:,.0f} MB)"
                say(f"downloading {name}{size}", err=True)
            began = True
            bar.update(task, completed=done, total=total, visible=True)

        yield report


def _tag(part: Path) -> Path:
    """Where the server's name for the version of a half file is kept."""
    return part.with_name(f"{part.name}.etag")


def _download(entry: Entry, part: Path, path: Path, report: Report) -> None:
    with explain_os_errors("write to", part.parent):
        part.parent.mkdir(parents=True, exist_ok=True)
        have = part.stat().st_size if part.is_file() and _tag(part).is_file() else 0
        headers = {"User-Agent": "robustbench-coss"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": _tag(part).read_text()}
    request = urllib.request.Request(entry.source, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            resumed = getattr(answer, "status", None) == 206
            length = answer.headers.get("Content-Length")
            start = have if resumed else 0
            total = start + int(length) if length and length.isdigit() else None
            if not resumed:
                _note_version(part, answer)
            done = _append(answer, part, start, total, report)
    except urllib.error.HTTPError as error:
        raise _not_had(entry, path, f"the server answers {error.code} {error.reason}") from error
    except (urllib.error.URLError, OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise _not_had(entry, path, f"{type(error).__name__}: {reason}") from error
    if total is not None and done < total:
        raise CossError(
            f"the download of {entry.name} was cut off after {done:,} of {total:,} bytes; run the "
            "same command again to go on"
        )


def _note_version(part: Path, answer: Any) -> None:
    etag = answer.headers.get("ETag", "")
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)
    if etag and not etag.startswith("W/"):  # a weak one says nothing of single bytes
        write_atomically(_tag(part), etag)


def _append(answer: Any, part: Path, start: int, total: int | None, report: Report) -> int:
    done = start
    with part.open("ab") as file:
        file.truncate(start)
        while True:
            chunk = b""
            with suppress(TimeoutError, ConnectionError):  # cut off: what came is kept
                chunk = answer.read(CHUNK)
            if not chunk:
                break
            file.write(chunk)
            done += len(chunk)
            report(done, total)
        file.flush()
        os.fsync(file.fileno())
    return done


def _check(entry: Entry, path: Path) -> None:
    """Remove and refuse a file whose digest does not begin as the published one."""
    kind, wanted = entry.digest
    if not kind:
        return
    with explain_os_errors("read", path), path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False))
    if digest.hexdigest().startswith(wanted):
        return
    path.unlink()
    raise CossError(
        f"{path.name} from {entry.source} has the {kind} {digest.hexdigest()} and its publisher "
        f"states {wanted}: it was removed; try again, or ask the publisher"
    )


def _not_had(entry: Entry, path: Path, reason: str) -> CossError:
    return CossError(
        f"{entry.name} is not in the cache and {entry.source} cannot be had "
        f"({' '.join(reason.split())[:120]}); where there is a network, download it and put it at "
        f"{path}"
    )
