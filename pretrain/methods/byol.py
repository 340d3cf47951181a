"""BYOL (Grill et al. 2020, arXiv 2006.07733), CO-BYOL and BYOL with multi-crop."""

from __future__ import annotations

from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
from pydantic import Field
from torch import Tensor, nn

from robustbench_coss.encoders.base import Encoder
from robustbench_coss.pretrain.methods.base import MomentumMethod, MomentumOptions, ViewOutputs
from robustbench_coss.pretrain.methods.local_global import co
from robustbench_coss.pretrain.methods.losses import BYOLLoss, Pairing, across_views
from robustbench_coss.pretrain.recipe import Recipe


class BYOL(MomentumMethod):
    """Predict the target's projection of one view from the other; summed over both directions."""

    class Options(MomentumOptions):
        """Sizes of the heads (defaults of the paper, section 3.3)."""

        hidden: int = Field(4096, ge=1, le=65_536)
        """Hidden units of projector and predictor."""
        dim: int = Field(256, ge=2, le=65_536)
        """Size of projections and predictions."""

    options: Options

    def __init__(self, encoder: Encoder, recipe: Recipe, classes: int = 0) -> None:
        super().__init__(encoder, recipe, classes)
        self.add_branch("")

    def make_heads(self) -> tuple[nn.Module, nn.Module, Pairing]:
        hidden, dim = self.options.hidden, self.options.dim
        projector = BYOLProjectionHead(self.encoder.dim, hidden, dim)
        return projector, BYOLPredictionHead(dim, hidden, dim), BYOLLoss()

    def global_loss(self, outputs: ViewOutputs) -> Tensor:
        projector, predictor, pairing = self.branch("")
        projections = [projector(h) for h in outputs.pooled + outputs.small_pooled]
        self.watch_collapse(projections[0])
        predictions = [predictor(z) for z in projections]
        return across_views(predictions, self.targets("", outputs), pairing)


class MultiCropBYOL(BYOL):
    """BYOL whose local crops predict both targets too, each target's mean over all other views.

    Multi-crop is SwAV's (Caron et al. 2020, arXiv 2006.09882); how it is weighted in BYOL is this
    project's choice: without local crops it is BYOL.
    """

    multi_crop = True


COBYOL = co(BYOL)
"""BYOL with the local-global term."""
