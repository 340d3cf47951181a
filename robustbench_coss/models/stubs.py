"""Unpickling in which nothing of a file runs: tensors, plain values, and stubs for the rest.

torch's own restricted reader refuses a file for any class that it does not know, such as the
settings of a run beside the weights. This one puts a `Stub` in the place of their objects, which
keeps what they were made of and computes nothing. Modules and functions that a harmless file has
no use for are refused by name all the same.
"""

from __future__ import annotations

import pickle
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # Python 2's names, which torch writes
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import _utils as rebuild

from robustbench_coss.errors import CossError

MOST_KINDS = 2000
"""Classes that a file may name."""

PLAIN = frozenset(
    word
    for line in (
        "object type dict list tuple set frozenset str bytes int float bool complex slice range",
        "Ellipsis NotImplemented",
    )
    for word in line.split()
)
"""Builtins that settings name as types."""

REFUSED = frozenset(
    word
    for line in (
        "asyncio atexit bdb cffi code codeop commands concurrent ctypes distutils fcntl ftplib gc",
        "http imp importlib inspect io _io linecache marshal mmap multiprocessing nt os pdb pickle",
        "pip pkgutil platform popen2 posix posixpath pty pydoc requests runpy sched shelve",
        "shutil signal smtplib socket ssl subprocess sys telnetlib tempfile threading timeit trace",
        "types urllib venv webbrowser xmlrpc zipimport",
    )
    for word in line.split()
)
"""Packages whose names occur in attacks and not in settings."""

REFUSED_PARTS = ("torch.hub", "torch.jit", "torch.package", "torch.serialization")
HARMLESS = ("types.SimpleNamespace",)
SHARED_TENSORS = "torch.distributed._shard.sharded_tensor"

_Unpickler: Any = pickle._Unpickler  # the one in Python, whose operations can be replaced


class Forbidden(CossError):
    """A name that no harmless file has; the message is that name."""


class SharedOut(Forbidden):
    """The same behind tensors that several processes share."""


class Stub:
    """Stands for an object whose class is not opened: what it was made of, and no behaviour.

    Attributes:
        kind: module and name of the class that it stands for.
        args, state: what it was to be called with and restored from.
        items, values: entries of a dictionary or list that it is.
    """

    kind = ""
    dump_patches = False  # asked for by torch of the module of an old file

    def __init__(self, *args: Any, **options: Any) -> None:
        self.args = args
        self.state: Any = options
        self.items: dict[Any, Any] = {}
        self.values: list[Any] = []

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        self.values.append(value)

    def extend(self, values: Any) -> None:
        self.values.extend(values)

    add = append


@cache
def _allowed() -> dict[str, Any]:
    """What is called by its name: makes tensors and dictionaries and nothing else."""
    found: dict[str, Any] = {
        "collections.OrderedDict": OrderedDict,
        "torch.nn.parameter.Parameter": torch.nn.Parameter,
        "torch.nn.Parameter": torch.nn.Parameter,
        "torch.Size": torch.Size,
        "torch.device": torch.device,
        "torch.serialization._get_layout": torch.serialization._get_layout,
    }
    for name in (
        "_rebuild_tensor",
        "_rebuild_tensor_v2",
        "_rebuild_tensor_v3",
        "_rebuild_parameter",
        "_rebuild_parameter_with_state",
        "_rebuild_sparse_tensor",
        "_rebuild_qtensor",
        "_rebuild_meta_tensor_no_storage",
    ):
        found[f"torch._utils.{name}"] = getattr(rebuild, name)
    for name, value in vars(torch).items():
        if isinstance(value, (torch.dtype, torch.layout, torch.qscheme)):
            found[f"torch.{name}"] = value
    return found


class Restricted(_Unpickler):  # type: ignore[misc]
    """Pickle's reader without a way to call, make or change anything but tensors and stubs."""

    dispatch: ClassVar[dict[int, Any]] = dict(_Unpickler.dispatch)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.kinds: dict[str, type[Stub]] = {}

    def find_class(self, module: str, name: str) -> Any:
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f"{module}.{name}"
        if full in _allowed():
            return _allowed()[full]
        strange = module.partition(".")[0] in REFUSED or module.startswith(REFUSED_PARTS)
        if full not in HARMLESS and (strange or (module == "builtins" and name not in PLAIN)):
            shared = any(kind.startswith(SHARED_TENSORS) for kind in self.kinds)
            raise (SharedOut if shared else Forbidden)(full)
        if len(self.kinds) >= MOST_KINDS:
            raise pickle.UnpicklingError("it names thousands of classes")
        return self.kinds.setdefault(full, type("Stub", (Stub,), {"kind": full}))

    def may_call(self, what: Any) -> None:
        stub = isinstance(what, type) and issubclass(what, Stub)
        if not stub and not any(what is known for known in _allowed().values()):
            raise pickle.UnpicklingError("it calls what it made")

    def load_reduce(self) -> None:
        self.may_call(self.stack[-2])
        super().load_reduce()

    def load_newobj(self) -> None:
        args = self.stack.pop()
        kind = self.stack[-1]
        self.may_call(kind)
        self.stack[-1] = kind(*args)

    def load_newobj_ex(self) -> None:
        options = self.stack.pop()
        args = self.stack.pop()
        kind = self.stack[-1]
        self.may_call(kind)
        self.stack[-1] = kind(*args, **options)

    def load_build(self) -> None:
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, Stub):
            made.state = state
        elif isinstance(made, torch.nn.Parameter) and isinstance(state, tuple):
            made.__setstate__(state)  # type: ignore[no-untyped-call]
        elif not isinstance(made, OrderedDict):  # attributes of a state dict: its versions
            raise pickle.UnpicklingError("it changes what it made")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BUILD[0]] = load_build
    for _code in (pickle.INST, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4):
        del dispatch[_code[0]]
    for _code in (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER):
        del dispatch[_code[0]]


def _load(file: Any, **options: Any) -> Any:
    return Restricted(file, **options).load()


READER = SimpleNamespace(
    Unpickler=Restricted, load=_load, UnpicklingError=pickle.UnpicklingError, __name__=__name__
)
"""In place of the module `pickle`, for `torch.load`."""


# ---- what stubs stand for ----


def parts(value: Any) -> Iterator[Any]:
    """What lies in a value: of dictionaries, lists and the stubs of such."""
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from value
    elif isinstance(value, Stub):
        yield from value.items.values()
        yield from value.values
        yield from _fields(value).values()


def _fields(stub: Stub) -> dict[Any, Any]:
    """Entries of settings that are no dictionaries, if they are of a known kind."""
    state = stub.state
    if not isinstance(state, Mapping):
        return {}
    if stub.kind in ("argparse.Namespace", "types.SimpleNamespace"):
        return dict(state)
    if stub.kind == "omegaconf.dictconfig.DictConfig" and isinstance(state.get("_content"), dict):
        return dict(state["_content"])
    if stub.kind == "omegaconf.listconfig.ListConfig" and isinstance(state.get("_content"), list):
        return dict(enumerate(state["_content"]))
    if stub.kind.startswith("omegaconf.nodes."):
        return {"": state.get("_val")}
    return {}


def plain(value: Any) -> Any:
    """A value in which settings (Namespace, OmegaConf, AttributeDict, CfgNode, …) are dictionaries.

    Other stubs stay. For values of limited depth only.
    """
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if not isinstance(value, Stub):
        return value
    if value.items:
        return {key: plain(inner) for key, inner in value.items.items()}
    fields = _fields(value)
    if value.kind.startswith("omegaconf.nodes."):
        return plain(fields.get(""))
    if value.kind == "omegaconf.listconfig.ListConfig":
        return [plain(inner) for inner in fields.values()]
    return {key: plain(inner) for key, inner in fields.items()} if fields else value
