"""What is known of an encoder out of another tool's file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from robustbench_coss.errors import CossError, kind_and_line
from robustbench_coss.models.other_tools.format import IMAGENET, Colour
from robustbench_coss.models.other_tools.resnets import Stem

CONTRADICTIONS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(RuntimeError, TypeError, ValueError),
)
"""What reading and building raise where tensors lack or have strange shapes."""


@dataclass(frozen=True)
class Foreign:
    """An encoder out of another tool's file.

    Attributes:
        format: recognised or given.
        kind: what builds it: resnet, wide, vit, swin, convnext or named.
        arch: `torchvision:NAME`, `timm:NAME`, a registered name, or what its shapes are called.
        state: weights in torchvision's or timm's names; with the classifier (`fc` or `head`) if
            the file has one.
        classes: of that classifier, else None.
        encoder: "online", "teacher", "average" or "" if the file has only one network.
        method: what it was trained with, if the file says so.
        size: image side in px that it was made for.
        place: the keys and the prefix that it was found at, as `--weights` takes them.
        mean, std: of pixels in [0, 1] that it was trained with.
        stem: of a ResNet.
        bare_stem: whether no ReLU follows its first batch norm.
        heads: of attention, of a ViT.
        pooling: of a ViT: class, mean, both or attention.
        token_by: where the tool's code says that this is the feature, if that settled it.
        eps: of its layer norms, which no weight shows either; every code has one.
        quick: whether the GELU is OpenAI's.
        embedding: whether the last linear layer is part of the feature.
        after: layers behind the network that are part of the feature too, by open_clip's names.
        probe: whether its classifier is to be read from the same file with `read_head`.
        assumed: what nothing told, in words, with the options that set it.
        notes: what else a reader should know.
    """

    format: str
    kind: str
    arch: str
    state: dict[str, Tensor]
    classes: int | None
    encoder: str
    method: str | None
    size: int
    place: str
    mean: Colour = IMAGENET[0]
    std: Colour = IMAGENET[1]
    stem: Stem | None = None
    bare_stem: bool = False
    heads: int | None = None
    pooling: str | None = None
    token_by: str = ""
    eps: float = 1e-6
    quick: bool = False
    embedding: bool = False
    after: dict[str, Tensor] = field(default_factory=dict)
    probe: bool = False
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def reading(self) -> dict[str, Any]:
        """The options that read the file in this way again, JSON-able."""
        told = {
            "format": self.format,
            "weights": self.place,
            "arch": self.arch if self.kind == "named" else None,
            "stem": None if self.stem is None else str(self.stem),
            "heads": self.heads,
            "pooling": self.pooling if self.pooling != "attention" else None,
            "mean": list(self.mean),
            "std": list(self.std),
        }
        return {key: value for key, value in told.items() if value is not None}


@contextmanager
def contradictions(path: Path) -> Iterator[None]:
    """One line for tensors that make up no network: some lack, some have strange shapes."""
    try:
        yield
    except CONTRADICTIONS as error:
        reason = kind_and_line(error, 160)
        raise CossError(
            f"{path}: its tensors make up no network, or none of this size ({reason}); pass "
            "another --size, --arch NAME or --weights KEY:PREFIX"
        ) from error
