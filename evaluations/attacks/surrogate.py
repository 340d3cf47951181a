"""A small substitute of a model, for attacks that never see the model's own gradients."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_coss.evaluations.protocol import Batch, Subject, top1
from robustbench_coss.seeds import permutation, seed_of

SIDE = 32
EPOCHS = 5
BATCH = 64
LEARNING_RATE = 3e-3
CHUNK = 256


class Surrogate(nn.Module):
    """Three convolutions and a linear layer: pixels in [0, 1] to logits, seen at 32 px at most."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = (3, 24, 48, 96)
        self.body = nn.Sequential()
        for before, after in pairwise(widths):
            self.body.append(nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False))
            self.body.append(nn.BatchNorm2d(after))
            self.body.append(nn.ReLU())
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, K] of [B, 3, H, W] in [0, 1]."""
        logits: Tensor = self.head(self.body((shrink(x) - 0.5) / 0.25).mean(dim=(2, 3)))
        return logits


def shrink(x: Tensor) -> Tensor:
    """Images of more than 32 px averaged down to that."""
    return F.adaptive_avg_pool2d(x, SIDE) if x.shape[-1] > SIDE else x


def train_surrogate(subject: Subject, reference: Batch) -> tuple[Surrogate, float]:
    """A surrogate taught the answers of a model (Papernot et al. 2017, "Practical Black-Box
    Attacks against Machine Learning").

    It is trained on the CPU, so that it is the same one whatever device measures.

    Args:
        subject: the model to imitate.
        reference: training images; their labels are not looked at.

    Returns:
        The surrogate, in eval mode on the device of the images, and the share of the images on
        which it agrees with the model in the end.
    """
    with torch.inference_mode():
        answers = torch.cat([top1(subject(part)) for part in torch.split(reference.images, CHUNK)])
        small = torch.cat([shrink(part) for part in torch.split(reference.images, CHUNK)])
    usable = (answers >= 0).cpu()
    images, answers = small.cpu()[usable].clone(), answers.cpu()[usable].clone()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of("adversarial", "surrogate"))
        surrogate = Surrogate(subject.classes)
    optimiser = torch.optim.Adam(surrogate.parameters(), lr=LEARNING_RATE)
    for epoch in range(EPOCHS):
        order = permutation(len(images), "adversarial", "surrogate", epoch)
        for rows in torch.split(order, BATCH):
            if len(rows) < 2:  # too few for the statistics of batch normalisation
                continue
            with torch.enable_grad():
                loss = F.cross_entropy(surrogate(images[rows]), answers[rows])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    surrogate.eval().requires_grad_(False)
    with torch.inference_mode():
        agrees = [
            (top1(surrogate(x)) == a).float()
            for x, a in zip(torch.split(images, CHUNK), torch.split(answers, CHUNK), strict=True)
        ]
    agreement = float(torch.cat(agrees).mean()) if agrees and len(images) else 0.0
    return surrogate.to(reference.images.device), agreement
