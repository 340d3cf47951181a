"""What a classifier answers: right or wrong, and the probabilities beside it.

A suite returns these columns for every condition under which the model classifies. In what form
records hold probabilities is `records.confidence`'s.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_coss.evaluations.protocol import top1
from robustbench_coss.records.confidence import (
    CONFIDENCE,
    LARGEST_LOGIT,
    NO_ANSWER,
    OTHERS,
    SCALE,
    SQUARES,
    TRUE_CLASS,
)


@torch.inference_mode()
def answers(subject: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Outcome columns of images [B, 3, H, W] with labels [B]: as `answered`."""
    return answered(subject(images), labels)


def answered(logits: Tensor, labels: Tensor, answer: Tensor | None = None) -> dict[str, Tensor]:
    """Outcome columns of logits [B, K]: `correct` [B] bool, and the codes of probabilities.

    Args:
        logits: ln of probabilities but for a constant of each image.
        labels: [B] int64.
        answer: [B] int64 what is answered, -1 for no finite answer; None is the largest logit.
    """
    logits = logits.float()
    answer = top1(logits) if answer is None else answer
    chosen = answer.clamp(min=0)
    others = logits.softmax(dim=1).scatter(1, chosen[:, None], 0).square().sum(dim=1)
    codes = {
        CONFIDENCE: probability_codes(against_the_rest(logits, chosen)),
        TRUE_CLASS: probability_codes(against_the_rest(logits, labels.clamp(min=0))),
        OTHERS: (others * SQUARES).round(),
    }
    return {"correct": answer == labels} | {
        name: torch.where(answer < 0, NO_ANSWER, code).to(torch.int8)
        for name, code in codes.items()
    }


def probability_codes(logits: Tensor) -> Tensor:
    """Codes of probabilities p, whole numbers, from l = ln(p / (1 - p)); see `confidence.SCALE`."""
    return (SCALE * (logits.clamp(-LARGEST_LOGIT, LARGEST_LOGIT) / 2).asinh()).round()


def against_the_rest(logits: Tensor, classes: Tensor) -> Tensor:
    """[B] ln(p / (1 - p)) of the probability of a class each.

    Without forming 1 - p, of which nothing is left in 32 bit where p is near 1.
    """
    own = classes[:, None]
    rest = logits.scatter(1, own, -torch.inf).logsumexp(dim=1)
    return logits.gather(1, own)[:, 0] - rest
