"""Controls: what an encoder has to beat before its numbers say anything of pretraining.

`control:pixels` hands its pixels through; `control:untrained:ARCH[:WIDTH][:SEED]` has the weights
that a run of `coss-bench pretrain` with this seed begins with, BatchNorm statistics included. With
`:no-mlp` at the end it has no MLP after pooling, as runs with `mlp: false`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from robustbench_coss import registry
from robustbench_coss.datasets.base import dataset_source
from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.errors import CossError
from robustbench_coss.files import sha256_of
from robustbench_coss.models.checkpoint import Checkpoint, build_encoder, foreign_metadata
from robustbench_coss.models.identity import state_sha256
from robustbench_coss.seeds import seed_of

FAMILY = "control"
KNOWN = "control:pixels, control:untrained:ARCH[:WIDTH][:SEED][:no-mlp]"


class Pixels(Encoder):
    """Normalised pixels as features [B, 3 · size · size]; it has no local representations."""

    def __init__(self, input: InputSpec) -> None:
        width = 3 * input.size**2
        super().__init__(input, local_dim=width, dim=width)

    def local(self, x: Tensor) -> Tensor:
        return self.normalise(x).flatten(1)[:, :, None, None]


def control(spec: str, *, size: int | None, dataset: str | None) -> Checkpoint:
    """A control by name.

    Args:
        spec: see the module.
        size: image side in px; None takes the default of `dataset`.
        dataset: registered name of what will be measured on.

    Raises:
        CossError: there is no such control, architecture or data set, a width or seed is none, or
            neither size nor data set is given.
    """
    _, kind, *rest = spec.split(":")
    if kind not in ("pixels", "untrained") or (kind == "pixels" and rest):
        raise CossError(f"unknown control {spec!r}; known: {KNOWN}")
    named = None if kind == "pixels" else _named_untrained(spec, rest)
    usual = None if dataset is None else dataset_source(dataset).default_size
    side = size or usual
    if side is None:
        raise CossError(f"{spec} has no data set of its own; name one with --dataset NAME")
    if named is None:
        return pixels(side)
    found = named(size=side)
    if side == usual:
        return found
    return replace(found, sha256=sha256_of({"weights": found.sha256, "size": side}))


def pixels(size: int) -> Checkpoint:
    """The pixels of images of `size` px as features."""
    spec = InputSpec(size)
    described = {"control": "pixels", "size": size, "mean": spec.mean, "std": spec.std}
    metadata = _metadata("pixels", "pixels", size)
    return Checkpoint(Pixels(spec).eval(), "pixels", None, sha256_of(described), metadata)


def untrained(
    arch: str, *, size: int, width: float = 1.0, mlp: bool | None = None, seed: int = 0
) -> Checkpoint:
    """A registered architecture as a run with this seed begins; `mlp` as `build_encoder`.

    Raises:
        CossError: unknown architecture, or a width or size that it cannot be built with.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "initialisation"))  # as pretraining does
        encoder = build_encoder(arch, size=size, width=width, mlp=mlp).eval()
    name = f"untrained-{arch}" + (f"-x{width:g}" if width != 1 else "")
    name += "" if mlp is None else "-mlp" if mlp else "-no-mlp"
    metadata = _metadata("untrained", arch, size) | {"width": width, "mlp": mlp}
    metadata["training"] = {"seed": seed}
    return Checkpoint(encoder, name, None, state_sha256(encoder), metadata)


def _named_untrained(spec: str, rest: Sequence[str]) -> Callable[..., Checkpoint]:
    """`untrained` with all that a name says; the size is still to be given."""
    mlp = False if rest[-1:] == ["no-mlp"] else None
    rest = rest[:-1] if mlp is False else rest
    if not rest or not rest[0] or len(rest) > 3:
        raise CossError(
            f"{spec} names no architecture; write control:untrained:ARCH[:WIDTH][:SEED][:no-mlp], "
            "`coss-bench list encoders` gives them"
        )
    width, seed = (*rest[1:], *("1", "0")[len(rest) - 1 :])
    try:
        factor = float(width)
        if not 0 < factor < float("inf"):
            raise ValueError
    except ValueError:
        raise CossError(f"the width in {spec} must be a positive number, got {width!r}") from None
    if not (seed.isascii() and seed.isdigit()):
        raise CossError(f"the seed in {spec} must be a whole number from 0, got {seed!r}")
    registry.load("encoder", rest[0])  # a name that is none is refused before anything is asked for
    return partial(untrained, rest[0], width=factor, mlp=mlp, seed=int(seed))


def _metadata(kind: str, arch: str, size: int) -> dict[str, Any]:
    return foreign_metadata(arch, size, f"control: {kind}", control=kind)
