"""BYOL (Grill et al. 2020, arXiv 2006.07733) and CO-BYOL."""

from __future__ import annotations

import copy

import torch
from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.local_global import co
from pretrain.method import Method, MethodOptions, ViewOutputs
from pretrain.recipe import Recipe
from robustbench_coss.encoders.base import Encoder


def regression(predictions: Tensor, targets: Tensor) -> Tensor:
    """BYOL's loss 2 - 2·cos, mean over rows (equation 2 of the paper).

    Args:
        predictions: [B, K], or [B, N, K] with one target per sample.
        targets: [B, K]; no gradient goes into them.
    """
    targets = targets.detach()
    if predictions.dim() == 3:
        targets = targets.unsqueeze(1)
    return 2 - 2 * F.cosine_similarity(predictions, targets, dim=-1).mean()


class BYOL(Method):
    """Predict the target's projection of one view from the other; summed over both directions."""

    class Options(MethodOptions):
        """Sizes of the heads (defaults of the paper, section 3.3)."""

        hidden: int = Field(4096, ge=1)
        """Hidden units of projector and predictor."""
        dim: int = Field(256, ge=2)
        """Size of projections and predictions."""

    options: Options

    def __init__(self, encoder: Encoder, recipe: Recipe) -> None:
        super().__init__(encoder, recipe)
        self.projector = self.local_head()
        self.predictor = self.local_predictor_head()
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.momentum_pairs += [
            (self.encoder, self.target_encoder),
            (self.projector, self.target_projector),
        ]

    def local_head(self) -> nn.Module:
        """A projector on [M, D] representations."""
        head: nn.Module = BYOLProjectionHead(
            self.encoder.dim, self.options.hidden, self.options.dim
        )
        return head

    def local_predictor_head(self) -> nn.Module:
        """A predictor on [M, K] projections."""
        head: nn.Module = BYOLPredictionHead(
            self.options.dim, self.options.hidden, self.options.dim
        )
        return head

    def pairing(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Local predictions [B, N, K] against global targets [B, K]."""
        return regression(predictions, targets)

    def encode(self, views: list[Tensor]) -> ViewOutputs:
        local = [self.encoder.local(view) for view in views]
        pooled = [self.encoder.pool(y) for y in local]
        with torch.no_grad():
            target_pooled = [self.target_encoder(view) for view in views]
        return ViewOutputs(local, pooled, target_pooled)

    def global_loss(self, outputs: ViewOutputs) -> Tensor:
        projections = [self.projector(h) for h in outputs.pooled]
        self.watch_collapse(projections[0])
        with torch.no_grad():
            targets = [self.target_projector(h) for h in outputs.target_pooled]
        first, second = (self.predictor(z) for z in projections)
        return regression(first, targets[1]) + regression(second, targets[0])


COBYOL = co(BYOL)
