"""What a user says of a checkpoint of another tool that the file does not say itself."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

from robustbench_coss.errors import CossError, unknown_name
from robustbench_coss.models.other_tools.format import Colour
from robustbench_coss.models.other_tools.formats import FORMATS
from robustbench_coss.models.other_tools.resnets import stem_of, usual_stem

POOLINGS = ("class", "mean", "both")


class Told(TypedDict, total=False):
    """The options of `Asked` that files alone have, as keywords."""

    format: str
    arch: str | None
    weights: str | None
    stem: str | None
    heads: int | None
    pooling: str | None
    head: str | Path | None
    allow_partial: bool


class Options(Told, total=False):
    """The options of `Asked` as keywords."""

    mean: Colour | None
    std: Colour | None


@dataclass(frozen=True)
class Asked:
    """How a file is to be read; every default leaves it to the file.

    Attributes:
        format: which tool wrote it, one of `FORMATS`.
        arch: a registered name, `torchvision:NAME` or `timm:NAME`.
        weights: "ema" or "raw", or KEY:PREFIX: the keys that lead to a dictionary of tensors, with
            "/" between them, and what the names of the network begin with.
        stem: of a ResNet, `stride=1,padding=1,pool=none` or a part of it.
        heads: of attention.
        pooling: which tokens of a ViT are its feature: class, mean or both.
        mean, std: of pixels in [0, 1].
        head: file of a linear classifier on its features.
        allow_partial: leave out tensors that the architecture has no place for.
    """

    format: str = "auto"
    arch: str | None = None
    weights: str | None = None
    stem: str | None = None
    heads: int | None = None
    pooling: str | None = None
    mean: Colour | None = None
    std: Colour | None = None
    head: Path | None = None
    allow_partial: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise unknown_name("format", self.format, FORMATS, more="")
        if self.weights not in (None, "ema", "raw") and ":" not in str(self.weights):
            raise CossError(
                f"--weights {self.weights} is not understood; write ema, raw or KEY:PREFIX, "
                "such as state_dict:model.encoder."
            )
        if self.stem is not None:
            stem_of(self.stem, usual_stem(7))
        if self.heads is not None and self.heads < 1:
            raise CossError(f"--heads must be at least 1, got {self.heads}")
        if self.pooling is not None and self.pooling not in POOLINGS:
            raise unknown_name("pooling", self.pooling, POOLINGS, more="")
        if (self.mean is None) != (self.std is None):
            raise CossError("--mean and --std go together; pass both")
        if self.std is not None and any(value == 0 for value in self.std):
            raise CossError("--std must not be 0, which pixels would be divided by")

    def given(self) -> list[str]:
        """The options that are not left to the file, as on the command line."""
        return [
            "--" + field.name.replace("_", "-")
            for field in fields(self)
            if getattr(self, field.name) != field.default
        ]


def asked(options: Options) -> Asked:
    """The options as keywords, checked."""
    known: dict[str, Any] = dict(options)
    if known.get("head") is not None:
        known["head"] = Path(known["head"]).resolve()
    return Asked(**known)
