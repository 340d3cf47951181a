"""Any module as a model that can be measured."""

from __future__ import annotations

import copy
import hashlib
from typing import Literal

import torch
from torch import Tensor, nn

from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.errors import CossError
from robustbench_coss.models.checkpoint import Checkpoint
from robustbench_coss.models.seams import cut

Channels = tuple[float, float, float]


class OpaqueEncoder(Encoder):
    """A module whose inside is unknown: its output is the one local representation of an image."""

    def __init__(self, module: nn.Module, input: InputSpec, dim: int) -> None:
        super().__init__(input, local_dim=dim, dim=dim)
        self.module = module

    def local(self, x: Tensor) -> Tensor:
        out: Tensor = self.module(self.normalise(x))
        return out[:, :, None, None]


def wrap_module(
    module: nn.Module,
    *,
    name: str,
    size: int,
    mean: Channels | None = None,
    std: Channels | None = None,
    output: Literal["auto", "features", "logits"] = "auto",
    classes: int | None = None,
) -> Checkpoint:
    """A module as a checkpoint. A copy is measured: the module itself stays as it is.

    Networks of torchvision and timm keep the seam between local representations and pooling, and
    their features are what the last layer reads; an `Encoder` keeps its seam as well. Of anything
    else, only the output is known.

    Args:
        module: maps [B, 3, size, size] to features [B, D] or logits [B, K].
        name: for records and tables.
        size: image side in px.
        mean, std: per-channel normalisation of pixels in [0, 1] that the module expects to be done;
            None for none.
        output: what the module gives; "auto" takes it for logits if K is `classes`.
        classes: of the data set; needed to tell logits from features.

    Raises:
        CossError: the module does not take such images, gives neither features nor logits, or
            logits of another number of classes.
    """
    if output not in ("auto", "features", "logits"):
        raise CossError(f"unknown output {output!r}; known: auto, features, logits")
    digest = state_sha256(module)
    module = copy.deepcopy(module).cpu().eval()
    if isinstance(module, Encoder):
        return _checkpoint(name, module, None, None, digest, size)
    spec = InputSpec(size, mean or (0.0, 0.0, 0.0), std or (1.0, 1.0, 1.0))
    width = output_width(module, name, size)
    if output == "auto":
        output = "logits" if classes is not None and width == classes else "features"
    if output == "logits" and classes is not None and width != classes:
        raise CossError(
            f"{name} gives {width} logits and the data set has {classes} classes; choose another "
            "data set, or measure its features with output='features'"
        )
    parts = cut(module, spec)
    if parts is None:
        encoder = OpaqueEncoder(module, spec, width).eval()
        head = nn.Identity() if output == "logits" else None
        return _checkpoint(name, encoder, head, width if head else None, digest, size)
    if output == "features":  # of a classifier: what its last layer reads
        return _checkpoint(name, parts.encoder, None, None, digest, size)
    return _checkpoint(name, parts.encoder, parts.head or nn.Identity(), width, digest, size)


def output_width(module: nn.Module, name: str, size: int) -> int:
    """D or K of a module's output for images of `size` px.

    Raises:
        CossError: it does not take them, or gives something else than [B, width] numbers.
    """
    try:
        with torch.inference_mode():
            found = module(torch.zeros(2, 3, size, size))
    except Exception as error:  # a stranger's module may raise anything
        reason = " ".join(str(error).split())[:160]
        raise CossError(
            f"{name} does not take images [B, 3, {size}, {size}] "
            f"({type(error).__name__}: {reason}); pass the size it was made for"
        ) from error
    if isinstance(found, Tensor) and found.dim() == 2 and len(found) == 2:
        if found.is_floating_point():
            return int(found.shape[1])
        what = f"a tensor of {found.dtype}"
    elif isinstance(found, Tensor):
        what = f"a tensor {list(found.shape)} for 2 images"
    else:
        what = f"a {type(found).__name__}"
    raise CossError(
        f"the output of {name} is neither features [B, D] nor logits [B, K] but {what}; "
        "wrap it in a module that returns one of them"
    )


def state_sha256(module: nn.Module) -> str:
    """Digest of a module's class and its parameters and buffers, by name, type, shape and value."""
    digest = hashlib.sha256(f"{type(module).__module__}.{type(module).__qualname__}".encode())
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"\n{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


def _checkpoint(
    name: str,
    encoder: Encoder,
    head: nn.Module | None,
    classes: int | None,
    digest: str,
    size: int,
) -> Checkpoint:
    spec = encoder.input
    if spec.size != size:
        raise CossError(f"{name} takes images of {spec.size} px, not {size}; pass that size")
    return Checkpoint(
        encoder,
        name,
        None,
        digest,
        {
            "arch": name,
            "width": 1.0,
            "size": size,
            "method": None,
            "dataset": None,
            "encoder": None,
            "source": "python object",
            "training": {},
        },
        head,
        classes,
        describe_input(spec, "the call"),
    )


def describe_input(spec: InputSpec, source: str) -> str:
    """Preprocessing in one line."""
    mean, std = (", ".join(f"{v:g}" for v in values) for values in (spec.mean, spec.std))
    return f"images of {spec.size} px, pixels in [0, 1], mean ({mean}), std ({std}), from {source}"
