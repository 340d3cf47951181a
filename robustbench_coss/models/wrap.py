"""Any module as a model that can be measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from robustbench_coss.encoders.base import Encoder, InputSpec, Stage
from robustbench_coss.errors import CossError, kind_and_line
from robustbench_coss.models.checkpoint import Checkpoint, foreign_metadata
from robustbench_coss.models.identity import answers_sha256, module_sha256
from robustbench_coss.models.loan import Loan, ordinary_mode
from robustbench_coss.models.seams import cut

Channels = tuple[float, float, float]


def guarded(call: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """`call(*batches)` as a stranger's module survives it; batches are [B, …], so is the result.

    A single image goes in twice: a layer that takes statistics over the batch, or a head that
    squeezes, works on two and not on one. And nothing of inference mode goes in: a module may keep
    what it made of it and need it for a gradient later.
    """
    single = len(batches[0]) == 1
    if single:
        batches = tuple(torch.cat([x, x]) for x in batches)
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False), torch.no_grad():
            found = call(*(x.clone() for x in batches))
    else:
        found = call(*batches)
    return found[:1] if single else found


class Guarded(Encoder):
    """An encoder whose parts may be anyone's; every call of them is `guarded`."""

    def __init__(self, inner: Encoder) -> None:
        super().__init__(inner.input, inner.local_dim, inner.dim)
        self.inner, self.training = inner, False  # alone: the inner's flags are its owner's

    def stages(self) -> dict[str, Stage]:
        return {name: partial(guarded, stage) for name, stage in self.inner.stages().items()}

    def pool(self, local: Tensor, keep: Tensor | None = None) -> Tensor:
        return guarded(self.inner.pool, local, *(() if keep is None else (keep,)))


class OpaqueEncoder(Encoder):
    """A module whose inside is unknown: its output is the one local representation of an image."""

    def __init__(self, module: nn.Module, input: InputSpec, dim: int) -> None:
        super().__init__(input, local_dim=dim, dim=dim)
        self.module = module

    def local(self, x: Tensor) -> Tensor:
        out: Tensor = self.module(self.normalise(x))
        return out.float()[:, :, None, None]


def wrap_module(
    module: nn.Module,
    *,
    name: str,
    size: int,
    mean: Channels | None = None,
    std: Channels | None = None,
    output: Literal["auto", "features", "logits"] = "auto",
    classes: int | None = None,
    version: str = "",
) -> Checkpoint:
    """A module as a checkpoint. Nothing is copied: what is measured is the module itself, which is
    put into eval mode while it is measured and left as it was.

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
        version: tells models apart that look the same from outside; part of the name.

    Raises:
        CossError: the module does not take such images, gives neither features nor logits, or
            logits of another number of classes; it has no weights yet.
    """
    if output not in ("auto", "features", "logits"):
        raise CossError(f"unknown output {output!r}; known: auto, features, logits")
    name = f"{name} {version}" if version else name
    check_weights(module, name)
    spec = InputSpec(size, _three(mean, 0.0), _three(std, 1.0))
    contract = {"size": size, "mean": spec.mean, "std": spec.std, "output": output}
    contract["version"] = version
    digest = module_sha256(module, **contract)
    with Loan(module), ordinary_mode(), torch.no_grad():
        module.cpu()
        if isinstance(module, Encoder):
            spec = module.input
            encoder, head, classes = _encoder(module, name, size), None, None
            answers = module(_images(size))
        else:
            answers = trial(module, name, spec)
            encoder, head, classes = _parts(module, spec, name, answers.shape[1], output, classes)
    return Checkpoint(
        Guarded(encoder),
        name,
        None,
        digest,
        foreign_metadata(type(module).__name__, size, "python object"),
        head,
        classes,
        describe_input(spec, "the call"),
        answers_sha256(answers),
    )


def _three(values: Channels | None, default: float) -> Channels:
    r, g, b = (default,) * 3 if values is None else map(float, values)
    return r, g, b


def _encoder(module: Encoder, name: str, size: int) -> Encoder:
    if module.input.size != size:
        raise CossError(f"{name} takes images of {module.input.size} px, not {size}; pass that")
    return module


def _parts(
    module: nn.Module,
    spec: InputSpec,
    name: str,
    width: int,
    output: str,
    classes: int | None,
) -> tuple[Encoder, nn.Module | None, int | None]:
    """Encoder, head and number of classes of a module that gives `width` outputs."""
    if output == "auto":
        output = "logits" if classes is not None and width == classes else "features"
    if output == "logits" and classes is not None and width != classes:
        raise CossError(
            f"{name} gives {width} logits and the data set has {classes} classes; choose another "
            "data set, or measure its features with output='features'"
        )
    parts = cut(module, spec)
    if parts is None:
        head = nn.Identity() if output == "logits" else None
        return OpaqueEncoder(module, spec, width), head, width if head else None
    if output == "features":  # of a classifier: what its last layer reads
        return parts.encoder, None, None
    return parts.encoder, parts.head or nn.Identity(), width


def check_weights(module: nn.Module, name: str) -> None:
    """Refuse a module that lacks values.

    Raises:
        CossError: a layer is lazy and was never called, or tensors lie on the device "meta".
    """
    for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(tensor):
            raise CossError(
                f"{name} has no weights yet ({key} is made at the first call); call it once on a "
                "batch of images, and train it"
            )
        if tensor.is_meta:
            raise CossError(
                f"{name} has no weights: {key} lies on the device 'meta', which holds none; make "
                "the module on the CPU, or load its weights with load_state_dict(…, assign=True)"
            )


def _images(size: int) -> Tensor:
    """Two images of noise, always the same, [2, 3, size, size] in [0, 1]."""
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def trial(module: nn.Module, name: str, spec: InputSpec) -> Tensor:
    """What a module gives for two images of noise: [2, D] or [2, K].

    Raises:
        CossError: it does not take them, or gives something else than [B, width] numbers.
    """
    size = spec.size
    try:
        found: Any = module(Encoder(spec, 1, 1).normalise(_images(size)))
    except (Exception, SystemExit) as error:  # a stranger's module may raise anything
        reason = kind_and_line(error, 160)
        raise CossError(
            f"{name} does not take images [B, 3, {size}, {size}] ({reason}); {_remedy(module)}"
        ) from error
    if isinstance(found, Tensor) and found.dim() == 2 and len(found) == 2:
        if found.is_floating_point():
            return found
        what = f"a tensor of {found.dtype}"
    elif isinstance(found, Tensor):
        what = f"a tensor {list(found.shape)} for 2 images"
    else:
        what = f"a {type(found).__name__}"
    raise CossError(
        f"the output of {name} is neither features [B, D] nor logits [B, K] but {what}; "
        "wrap it in a module that returns one of them"
    )


def _remedy(module: nn.Module) -> str:
    """What to do about a module that takes no float32 images of three channels."""
    others = {p.dtype for p in module.parameters() if p.is_floating_point()} - {torch.float32}
    if others:
        kinds = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in others))
        return f"its weights are {kinds} and images are float32: pass module.float()"
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    if first is not None and first.in_channels != 3:
        return (
            f"its first convolution takes {first.in_channels} channels and images have 3: put a "
            "layer before it that makes these of them"
        )
    return "pass the size it was made for"


def describe_input(spec: InputSpec, source: str) -> str:
    """Preprocessing in one line."""
    mean, std = (", ".join(f"{v:g}" for v in values) for values in (spec.mean, spec.std))
    own = spec.geometry.described(spec.size) if spec.geometry.stored(spec.size) else ""
    return (
        f"images of {spec.size} px{own and f' ({own})'}, pixels in [0, 1], mean ({mean}), "
        f"std ({std}), from {source}"
    )
