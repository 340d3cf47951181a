"""Reading files of strangers within limits: regular files of bounded size, YAML, JSON, containers.

What is wrong with a file is one line; nothing waits on a pipe, reads a device, or takes the
memory that a few bytes can ask for. docs/limits.md states the limits; those of pictures are in
`datasets.pictures`, those of files of torch and safetensors in `models.containers`.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from io import FileIO
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any

from robustbench_coss.errors import CossError, explain_os_errors, one_line

MIB = 1 << 20
MOST_YAML = 64 << 10  # bytes; the longest recipe has 2,000, and PyYAML reads 100,000 a second
MOST_JSON = 256 * MIB  # bytes, of a record
MOST_TEXT = 64 * MIB  # bytes, of tables and lists
MOST_VALUES = 5_000_000  # in a JSON file: some 100 bytes of memory each
MOST_NODES = 10_000  # in a YAML file, aliases written out
DEEPEST = 100  # mappings and lists within one another
MOST_DIGITS = 100  # of a number

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def from_home(path: str | Path) -> Path:
    """A path with `~` and `~user` written out. Of a user who is not known, for whom
    `Path.expanduser` raises RuntimeError, it stays as it is: a path that is not there.
    """
    return Path(os.path.expanduser(path))


def open_regular(path: Path, doing: str = "read") -> FileIO:
    """Open a regular file for reading, unbuffered; a link is followed.

    Raises:
        CossError: there is none, or it is a folder, pipe, socket or device: never waits.
    """
    if "\0" in os.fspath(path):
        raise CossError(f"the path {os.fspath(path)!r} holds a NUL, which no file name can")
    if os.path.islink(path) and not os.path.exists(path):  # as pathlib, for any path
        target = os.path.join(path.parent, os.readlink(path))
        raise CossError(f"{path} is a link to {target}, which is not there; mend or remove it")
    with explain_os_errors(doing, path):
        # A pipe without a writer would be waited for.
        handle = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
    state = os.fstat(handle)
    if not stat.S_ISREG(state.st_mode):
        os.close(handle)
        raise CossError(f"{path} is {kind_of(state.st_mode)}, not a regular file; {_REMEDY}")
    return os.fdopen(handle, "rb", buffering=0)


_REMEDY = "pass the file itself, or remove it where it lies in a folder that is read"


def kind_of(mode: int) -> str:
    """What `st_mode` of something that is no regular file says it is, in words."""
    return next((words for is_one, words in _KINDS if is_one(mode)), "something else")


def check_regular(path: Path) -> int:
    """The size in bytes of a regular file that can be read, for readers that open it themselves.

    Raises:
        CossError: as `open_regular`.
    """
    with open_regular(path) as file:
        return os.fstat(file.fileno()).st_size


def read_bytes(path: Path, most: int, doing: str = "read") -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
        CossError: as `open_regular`, or it is larger.
    """
    with open_regular(path, doing) as file, explain_os_errors(doing, path):
        _check_size(path, os.fstat(file.fileno()).st_size, most)
        chunks, left = [], most + 1
        while left and (chunk := file.read(min(left, 16 * MIB))):  # files of /proc state no size
            chunks.append(chunk)
            left -= len(chunk)
    content = b"".join(chunks)
    _check_size(path, len(content), most)
    return content


def read_text(path: Path, most: int = MOST_TEXT, errors: str = "replace") -> str:
    """The content of a regular file as UTF-8, without a byte order mark, "\\n" between lines."""
    text = read_bytes(path, most).decode("utf-8-sig", errors)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file but for empty ones and those that begin with #, stripped.

    Raises:
        CossError: as `read_bytes`, or it is no text.
    """
    text = read_text(path)
    if "\0" in text:
        raise CossError(f"{path} is no text in UTF-8; save it as such")
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _check_size(path: Path, size: int, most: int | None) -> None:
    if most is not None and size > most:
        raise CossError(
            f"{path} has {size:,} bytes or more, and at most {most:,} are read of such a file; "
            "check that it is the right one"
        )


def parse_json(text: bytes | str) -> Any:
    """JSON within the limits of this module, UTF-8; no NaN, no Infinity, no key twice.

    Raises:
        ValueError: it is not, in one line.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) > MOST_JSON:
        raise ValueError(f"it has more than {MOST_JSON:,} bytes")
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ValueError(f"it holds more than {MOST_VALUES:,} values")
    try:
        found = json.loads(
            data.decode("utf-8"),
            parse_constant=_no_constant,
            parse_int=_whole,
            parse_float=_finite,
            object_pairs_hook=_object,
        )
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEEPEST}") from None
    _check_depth(found)
    return found


def _check_depth(root: Any) -> None:
    """Raise ValueError where parsed JSON, a tree, is nested deeper than `DEEPEST`."""
    level = [root]
    for _ in range(DEEPEST):
        level = [v for node in level for v in _inner(node) if isinstance(v, (dict, list))]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {DEEPEST}")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number has {len(digits):,} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value) or len(digits) > MOST_DIGITS:
        raise ValueError(f"the number {digits[:20]} is out of range")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"the key {twice[:40]!r} is there twice")
    return found


def _inner(value: Any) -> Iterable[Any]:
    """What lies in a plain value: the values of a dictionary, a list's elements, else nothing."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (list, tuple)) else ()


def count_nodes(root: Any, most: int, children: Callable[[Any], Iterable[Any]] = _inner) -> int:
    """How many nodes a graph has when what is shared is written out; each is visited once.

    Args:
        children: of a node.

    Raises:
        ValueError: more than `most`, deeper than `DEEPEST`, or a node that holds itself.
    """
    known: dict[int, tuple[int, int, Any]] = {}  # size, height, and the node, to keep its id taken
    above: set[int] = set()

    def count(node: Any, depth: int) -> tuple[int, int]:
        if id(node) in known:
            size, height, _ = known[id(node)]
        else:
            if id(node) in above:
                raise ValueError("a part of it holds itself")
            size, height = 1, 0
            if depth <= DEEPEST:
                above.add(id(node))
                for inner in children(node):
                    inner_size, inner_height = count(inner, depth + 1)
                    size, height = size + inner_size, max(height, inner_height + 1)
                    if size > most:
                        raise ValueError(f"it holds more than {most:,} values")
                above.remove(id(node))
                known[id(node)] = size, height, node
        if depth + height > DEEPEST:
            raise ValueError(f"it is nested deeper than {DEEPEST}")
        return size, height

    return count(root, 0)[0]


def parse_yaml(text: bytes | str) -> Any:
    """YAML of plain values within the limits of this module.

    Numbers are read as YAML 1.2 and JSON spell them: `5e-1` is one, which YAML 1.1 calls text. No
    key may be there twice.

    Raises:
        ValueError: it is not, in one line.
    """
    import yaml

    if len(text) > MOST_YAML:
        raise ValueError(f"it has more than {MOST_YAML:,} bytes")
    # PyYAML's time grows with the square of the depth; brackets within text are few.
    brackets = re.findall(r"[][{}]", text if isinstance(text, str) else text.decode("latin-1"))
    if max(accumulate(1 if b in "[{" else -1 for b in brackets), default=0) > 2 * DEEPEST:
        raise ValueError(f"it is nested deeper than {DEEPEST}")
    try:
        loader = _yaml_loader()(text)
        node = loader.get_single_node()
        if node is None:
            return None
        count_nodes(node, MOST_NODES, _yaml_children)
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEEPEST}") from None
    except yaml.YAMLError as error:
        raise ValueError(one_line(error)) from error
    except (AttributeError, LookupError, TypeError, ArithmeticError) as error:
        # What PyYAML raises for values that are not of the kind that their tag states.
        raise ValueError(f"a value is not of its kind ({error})") from error


def _yaml_children(node: Any) -> Iterable[Any]:
    value = node.value
    if isinstance(value, str):
        if len(value) > MOST_DIGITS and node.tag in _NUMBERS:
            raise ValueError(f"a number has {len(value):,} digits")
        if node.tag == _NUMBERS[1] and not math.isfinite(_yaml_float(value)):
            raise ValueError(f"the number {value[:20]} is out of range")
        return ()
    keys = [pair[0] for pair in value if isinstance(pair, tuple)]
    plain = Counter((key.tag, key.value) for key in keys if isinstance(key.value, str))
    for (_, name), times in plain.items():
        if times > 1:  # YAML 1.2, section 3.2.1.1; PyYAML takes the last
            raise ValueError(f"{name[:80]!r} is there twice")
    return [inner for pair in value for inner in (pair if isinstance(pair, tuple) else (pair,))]


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def _yaml_float(text: str) -> float:
    try:
        return float(text.replace("_", ""))
    except ValueError:  # .inf, .nan, and numbers to the base of 60
        return math.inf if text.lower().lstrip("+-") in (".inf", ".nan") else 0.0


@cache
def _yaml_loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+\Z")
    Loader.add_implicit_resolver(_NUMBERS[1], number, list("-+0123456789."))
    return Loader


def leading_comment(text: str) -> str:
    """The lines of comment that a YAML text begins with, as one."""
    lines = takewhile(lambda line: line.startswith("#"), text.splitlines())
    return " ".join(line.lstrip("# ") for line in lines)
