"""MoCo v3 (Chen, Xie and He 2021, arXiv 2104.02057) and CO-MoCo v3."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from robustbench_coss.pretrain.methods.byol import BYOL
from robustbench_coss.pretrain.methods.local_global import co
from robustbench_coss.pretrain.methods.losses import InfoNCE, Pairing


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


class MoCoV3(BYOL):
    """Tell the target's projection of an image's other view from those of all other images.

    Networks and views are combined as in BYOL; heads and pairing differ. The loss of a direction is
    scaled by 2·T and both are summed, as in the published code.
    """

    class Options(BYOL.Options):
        """Heads and temperature (defaults of the published code for ResNet-50)."""

        temperature: float = Field(1.0, gt=0, le=1e4)
        """T of the contrast."""

    options: Options

    def make_heads(self) -> tuple[nn.Module, nn.Module, Pairing]:
        hidden, dim = self.options.hidden, self.options.dim
        projector = head(self.encoder.dim, hidden, dim, norm=True)
        predictor = head(dim, hidden, dim, norm=False)
        return projector, predictor, InfoNCE(self.options.temperature, 2 * self.options.temperature)


COMoCoV3 = co(MoCoV3)
"""MoCoV3 with the local-global term."""
