"""Supervised training with cross-entropy: the reference that needs labels."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_coss.encoders.base import Encoder
from robustbench_coss.pretrain.methods.base import Method, ViewOutputs
from robustbench_coss.pretrain.recipe import Recipe


class Supervised(Method):
    """Name the class of one augmented view. The classifier is not exported: suites train a probe.

    Args:
        classes: number of classes.
    """

    views = 1
    uses_labels = True

    def __init__(self, encoder: Encoder, recipe: Recipe, classes: int = 0) -> None:
        super().__init__(encoder, recipe, classes)
        self.classifier = nn.Linear(encoder.dim, classes)

    def global_loss(self, outputs: ViewOutputs) -> Tensor:
        (pooled,) = outputs.pooled
        self.watch_collapse(pooled)
        return F.cross_entropy(self.classifier(pooled), outputs.labels)
