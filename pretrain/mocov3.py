"""MoCo v3 (Chen, Xie and He 2021, arXiv 2104.02057) and CO-MoCo v3."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from pretrain.local_global import co
from pretrain.method import MomentumMethod, MomentumOptions, ViewOutputs
from pretrain.pairings import InfoNCE, Pairing, across_views
from pretrain.recipe import Recipe
from robustbench_coss.encoders.base import Encoder


def head(inputs: int, hidden: int, outputs: int, norm: bool) -> nn.Sequential:
    """Linear, BatchNorm, ReLU, Linear, all without bias; `norm` adds a BatchNorm without affine.

    As `_build_mlp` of facebookresearch/moco-v3, moco/builder.py.
    """
    layers: list[nn.Module] = [
        nn.Linear(inputs, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, outputs, bias=False),
    ]
    if norm:
        layers.append(nn.BatchNorm1d(outputs, affine=False))
    return nn.Sequential(*layers)


class MoCoV3(MomentumMethod):
    """Tell the target's projection of an image's other view from those of all other images.

    The loss of a direction is scaled by 2·T and both are summed, as in the published code.
    """

    class Options(MomentumOptions):
        """Heads and temperature (defaults of the published code for ResNet-50)."""

        hidden: int = Field(4096, ge=1)
        """Hidden units of projector and predictor."""
        dim: int = Field(256, ge=2)
        """Size of projections and predictions."""
        temperature: float = Field(1.0, gt=0)
        """T of the contrast."""

    options: Options

    def __init__(self, encoder: Encoder, recipe: Recipe, classes: int = 0) -> None:
        super().__init__(encoder, recipe, classes)
        self.add_branch("")

    def make_heads(self) -> tuple[nn.Module, nn.Module, Pairing]:
        hidden, dim = self.options.hidden, self.options.dim
        projector = head(self.encoder.dim, hidden, dim, norm=True)
        predictor = head(dim, hidden, dim, norm=False)
        return projector, predictor, InfoNCE(self.options.temperature, 2 * self.options.temperature)

    def global_loss(self, outputs: ViewOutputs) -> Tensor:
        projector, predictor, pairing = self.branch("")
        projections = [projector(h) for h in outputs.pooled]
        self.watch_collapse(projections[0])
        predictions = [predictor(z) for z in projections]
        return across_views(predictions, self.targets("", outputs), pairing)


COMoCoV3 = co(MoCoV3)
