"""A user's module while it is measured: in eval mode, without gradients of its own; then as it was.

Nothing is copied. What measuring changes (training flags, `requires_grad`, where tensors lie, what
a module notes down as a plain attribute) is put away at the end of each step and taken out again
at the beginning of the next, so that between two steps the module is its owner's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

INTERNAL = frozenset(vars(nn.Module()))
"""What PyTorch itself keeps in a module; everything else there is the module's own."""


@contextmanager
def ordinary_mode() -> Iterator[None]:
    """Gradients as usual, whatever mode the caller is in: tensors of inference mode have none."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """What a module keeps beside parameters, buffers and submodules; nothing for TorchScript."""
    if isinstance(module, torch.jit.ScriptModule):
        return {}
    return {key: value for key, value in vars(module).items() if key not in INTERNAL}


class Loan:
    """Context manager, to be entered as often as one likes: one step of measuring each time."""

    def __init__(self, *modules: nn.Module) -> None:
        self.modules = list(dict.fromkeys(m for module in modules for m in module.modules()))
        found = dict.fromkeys(p for module in modules for p in module.parameters())
        self.parameters = [p for p in found if not p.is_inference()]  # those give way, see _usable
        self.ours: list[Any] | None = None
        self.theirs: list[Any] = []

    def __enter__(self) -> None:
        self.theirs = self._state()
        if self.ours is not None:
            self._restore(self.ours)
            return
        for module in self.modules:
            _usable(module)
        for module in self.modules:
            with suppress(AttributeError):  # frozen TorchScript has no flag
                module.training = False
        for parameter in self.parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        self.ours = self._state()
        self._restore(self.theirs)

    def _state(self) -> list[Any]:
        of_modules = [
            (
                module,
                getattr(module, "training", None),
                dict(module._parameters.items()),
                dict(module._buffers.items()),
                plain_attributes(module),
            )
            for module in self.modules
        ]
        return [of_modules, [(p, p.data, p.requires_grad) for p in self.parameters]]

    def _restore(self, state: list[Any]) -> None:
        of_modules, of_parameters = state
        for module, training, parameters, buffers, attributes in of_modules:
            with suppress(AttributeError):
                module.training = training
            for key, value in parameters.items():
                if module._parameters[key] is not value and not _scripted(module):
                    module._parameters[key] = value
            for key, value in buffers.items():
                module._buffers[key] = value
            for key in plain_attributes(module).keys() - attributes.keys():
                del module.__dict__[key]
            module.__dict__.update(attributes)
        for parameter, data, requires_grad in of_parameters:
            if not _at_one_place(parameter.data, data):
                parameter.data = data
            parameter.requires_grad_(requires_grad)


def _at_one_place(one: Tensor, other: Tensor) -> bool:
    if one.layout != torch.strided or other.layout != torch.strided:  # sparse ones have no storage
        return False
    return one.device == other.device and one.data_ptr() == other.data_ptr()


def _scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def _usable(module: nn.Module) -> None:
    """Ordinary tensors in place of those that a first call under inference mode left behind."""
    if _scripted(module):
        return
    for key, parameter in module._parameters.items():
        if parameter is not None and parameter.is_inference():
            module._parameters[key] = nn.Parameter(parameter.clone(), requires_grad=False)
    for key, buffer in module._buffers.items():
        if buffer is not None and buffer.is_inference():
            module._buffers[key] = buffer.clone()
    attributes = plain_attributes(module)
    module.__dict__.update({key: _ordinary(value) for key, value in attributes.items()})


def _ordinary(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_inference():
        return value.clone()
    if type(value) in (list, tuple):
        return type(value)(map(_ordinary, value))
    if type(value) is dict:
        return {key: _ordinary(item) for key, item in value.items()}
    return value
