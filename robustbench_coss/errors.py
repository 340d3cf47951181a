"""The one exception that users are meant to see, and helpers that phrase it.

The CLI prints a `CossError` as one line and exits with status 1; anything else that
escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class CossError(Exception):
    """What went wrong and what to do about it, in one line."""


def unknown_name(
    kind: str, name: str, known: Iterable[str], more: str = " (`coss-bench list` shows all)"
) -> CossError:
    """Error for a name that is not known, naming the nearest ones that are; `more` ends it."""
    names = sorted(known)
    hint = did_you_mean(name, names) or f"known: {', '.join(names) or 'none'}"
    return CossError(f"unknown {kind} {name!r}; {hint}{more}")


def did_you_mean(
    name: str, known: Iterable[str], then: str = "", like: Callable[[str], str] = str
) -> str:
    """The hint "did you mean A, B?" of at most three names near to `name`, and `then` behind it;
    `then` alone where none is near. Names are compared as `like` spells them.
    """
    names = {like(each): each for each in known}
    near = [names[found] for found in difflib.get_close_matches(like(name), names, 3, cutoff=0.5)]
    return " ".join(filter(None, [f"did you mean {', '.join(near)}?" if near else "", then]))


def few(names: Sequence[object], most: int = 3) -> str:
    """The first of many names: "a, b, c and 1,200 more"."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def one_line(error: BaseException, most: int = 200) -> str:
    """What an exception says, in one line of at most `most` characters; its kind if nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def kind_and_line(error: BaseException, most: int = 200) -> str:
    """As `one_line`, with the exception's kind before it: "KeyError: 'size'"."""
    kind, said = type(error).__name__, one_line(error, most)
    return kind if said == kind else f"{kind}: {said}"


@contextmanager
def explain_os_errors(doing: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an OSError met while `doing` something to `path` into a CossError with a remedy."""
    remedies = {
        errno.ENOSPC: "free some space or choose another folder",
        errno.EDQUOT: "your disk quota is used up; free some space or choose another folder",
        errno.EACCES: "no permission; choose a folder you can write to",
        errno.EPERM: "no permission; choose a folder you can write to",
        errno.EROFS: "the file system is read-only; choose another folder",
        errno.ENOTDIR: "a file is in the way; choose another folder",
        errno.EEXIST: "a file is in the way; choose another folder",
        errno.ENAMETOOLONG: "choose a shorter name",
        errno.ENOENT: "the path does not exist; check its spelling",
    }
    try:
        yield
    except ValueError as error:
        if "null byte" not in str(error) and "null character" not in str(error):
            raise
        raise CossError(f"cannot {doing} {path!r}: a path has no NUL character") from error
    except OSError as error:
        remedy = remedies.get(error.errno or 0, "check the path and the disk")
        where = Path(path)
        reason = error.strerror or str(error)
        raise CossError(f"cannot {doing} {where}: {reason}; {remedy}") from error
