"""SimCLR (Chen et al. 2020, arXiv 2002.05709) and CO-SimCLR."""

from __future__ import annotations

from lightly.models.modules.heads import SimCLRProjectionHead
from pydantic import Field
from torch import Tensor, nn

from robustbench_coss.encoders.base import Encoder
from robustbench_coss.pretrain.methods.base import Method, MethodOptions, ViewOutputs
from robustbench_coss.pretrain.methods.local_global import co
from robustbench_coss.pretrain.methods.losses import InfoNCE, Pairing, nt_xent
from robustbench_coss.pretrain.recipe import Recipe


class SimCLR(Method):
    """Tell the other view of an image from both views of all other images (NT-Xent).

    There is no target network. In the CO- form a local representation is to tell the global one of
    the other view from those of the other images, and gradient flows into both, as in SimCLR.
    """

    class Options(MethodOptions):
        """Head and temperature (defaults of the paper for ImageNet, section 4)."""

        hidden: int = Field(2048, ge=1, le=65_536)
        """Hidden units of the projector."""
        dim: int = Field(128, ge=2, le=65_536)
        """Size of projections."""
        temperature: float = Field(0.1, gt=0, le=1e4)
        """T of the contrast."""

    options: Options
    sums_directions = False

    def __init__(self, encoder: Encoder, recipe: Recipe, classes: int = 0) -> None:
        super().__init__(encoder, recipe, classes)
        self.add_branch("")

    def make_heads(self) -> tuple[nn.Module, nn.Module, Pairing]:
        projector = SimCLRProjectionHead(self.encoder.dim, self.options.hidden, self.options.dim)
        return projector, nn.Identity(), InfoNCE(self.options.temperature)

    def global_loss(self, outputs: ViewOutputs) -> Tensor:
        first, second = self.targets("", outputs)
        self.watch_collapse(first)
        return nt_xent(first, second, self.options.temperature)


COSimCLR = co(SimCLR)
"""SimCLR with the local-global term."""
