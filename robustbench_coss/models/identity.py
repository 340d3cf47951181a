"""What a module is, as digests: its tensors, how it computes with them, and what it answers.

Nothing here changes a module or calls it, but for `answers_sha256`.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_coss.files import canonical_json
from robustbench_coss.models.loan import plain_attributes

LIBRARIES = ("torch", "torchvision", "timm", "robustbench_coss")
"""Whose code is known by its name; a new version of it makes no other model."""

PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, np.generic)

DEEPEST = 6
"""Levels of containers and functions within each other that are looked into."""


def state_sha256(module: nn.Module) -> str:
    """Digest of a module's class and its parameters and buffers, by name, type, shape and value."""
    digest = hashlib.sha256(_class(type(module)).encode())
    for key, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"\n{key} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(_bytes(value))
        else:  # extra state; packed weights of quantised layers
            digest.update(f"\n{key} ".encode() + b"\n".join(_told(value)))
    return digest.hexdigest()


def module_sha256(module: nn.Module, **contract: Any) -> str:
    """Digest of all that a module computes with, as far as that can be told without calling it.

    Beside its state: buffers that are not persistent, plain attributes, hooks, the code of classes
    that are of no library with what it closes over, the graph of TorchScript. Of other objects only
    the class counts.

    Args:
        contract: JSON-able; how the module is used (size, mean, std, …).
    """
    digest = hashlib.sha256(f"{state_sha256(module)}\n{canonical_json(contract)}".encode())
    for name, part in module.named_modules():
        digest.update(f"\n{name} {_class(type(part))} {_repr(part)}".encode())
        if isinstance(part, torch.jit.ScriptModule):
            with suppress(Exception):  # a part that is never called has no graph
                digest.update(str(part.inlined_graph).encode())
            continue
        own = {key: part._buffers[key] for key in sorted(part._non_persistent_buffers_set)}
        own |= plain_attributes(part)
        hooks = [*part._forward_pre_hooks.values(), *part._forward_hooks.values()]
        for line in (*_told(own), *_told(hooks), *_code_of(type(part))):
            digest.update(b"\n" + line)
    return digest.hexdigest()


def answers_sha256(answers: Tensor) -> str:
    """Digest of a module's outputs for a fixed batch: of what no look at it tells (globals, …)."""
    return hashlib.sha256(_bytes(answers)).hexdigest()


def _class(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _repr(module: nn.Module) -> str:
    """Settings of a layer ("3, 64, kernel_size=(7, 7)"); a stranger's may raise anything."""
    try:
        return module.extra_repr()
    except Exception:
        return ""


def _bytes(tensor: Tensor) -> bytes:
    tensor = tensor.detach()
    if tensor.device.type == "meta":
        return b"meta"
    if tensor.is_quantized:
        scheme = f"{tensor.qscheme()} {tensor.dtype}".encode()
        return scheme + _bytes(tensor.dequantize()) + _bytes(tensor.int_repr())
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    flat = tensor.cpu().resolve_conj().resolve_neg().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _told(value: Any, depth: int = 0) -> Iterator[bytes]:
    """A value in bytes that are the same in every process."""
    if depth > DEEPEST:
        return
    below = partial(_told, depth=depth + 1)
    yield _class(type(value)).encode()
    if value is None or isinstance(value, PLAIN):
        yield repr(value).encode()
    elif isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield _bytes(value)
    elif isinstance(value, np.ndarray) and value.dtype.kind in "?bBhHiIlLqQefdFD":
        yield f"{value.dtype} {value.shape}".encode() + value.tobytes()
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            yield from below(key)
            yield from below(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from below(item)
    elif isinstance(value, (set, frozenset)):
        yield from sorted(b"".join(below(item)) for item in value)
    elif isinstance(value, type):
        yield _class(value).encode()
    elif isinstance(value, (types.FunctionType, types.MethodType)):
        yield from _code(value, depth)
    elif isinstance(value, partial):
        yield from below([value.func, value.args, value.keywords])
    elif is_dataclass(value) or isinstance(value, types.SimpleNamespace):
        yield from below(dict(vars(value)))


def _code(value: types.FunctionType | types.MethodType, depth: int) -> Iterator[bytes]:
    function = value.__func__ if isinstance(value, types.MethodType) else value
    if not isinstance(function, types.FunctionType):  # a method of something compiled
        return
    yield from _compiled(function.__code__)
    held = [function.__defaults__, function.__kwdefaults__]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # an empty one
            held.append(cell.cell_contents)
    yield from _told(held, depth + 1)


def _compiled(code: types.CodeType) -> Iterator[bytes]:
    yield code.co_code + repr(code.co_names).encode()
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _compiled(constant)
        else:
            yield from _told(constant)


def _code_of(kind: type) -> Iterator[bytes]:
    """The functions of a class that is of no library, and of those that it inherits from."""
    for one in kind.__mro__[:-1]:
        if one.__module__.partition(".")[0] not in LIBRARIES:
            for name, value in sorted(vars(one).items()):
                if isinstance(value, types.FunctionType):
                    yield name.encode()
                    yield from _code(value, 0)
