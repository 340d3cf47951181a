"""An encoder in stages, for suites that mask or disturb what a stage gives."""

from __future__ import annotations

from torch import Tensor

from robustbench_coss.encoders.base import Stage
from robustbench_coss.evaluations.protocol import Subject
from robustbench_coss.testing import TinyEncoder, tiny_subject


class StagedEncoder(TinyEncoder):
    """The tiny encoder in two stages: a map of 8 × 8 positions, then one of 4 × 4."""

    def stages(self) -> dict[str, Stage]:
        return {"first": self._first, "second": self.body[2:]}

    def _first(self, x: Tensor) -> Tensor:
        out: Tensor = self.body[:2](self.normalise(x))
        return out


def in_stages(size: int = 32) -> Subject:
    """The tiny subject, its encoder made of two stages with the same weights."""
    plain, encoder = tiny_subject(size), StagedEncoder(size)
    encoder.load_state_dict(plain.encoder.state_dict())
    return Subject(encoder, plain.classifier)
