"""A tiny classifier that really classifies, and pictures for it; quick enough for any test."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.evaluations.protocol import Batch, Subject

CLASSES = 6


class TinyEncoder(Encoder):
    """Two convolutions, then a mean and a nonlinear layer: `pool` is more than a mean."""

    def __init__(self, size: int = 32, stride: int = 8) -> None:
        super().__init__(InputSpec(size), local_dim=24, dim=32)
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=4, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, stride=stride // 4, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Linear(24, 32), nn.Tanh())

    def local(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(self.normalise(x))
        return out

    def pool(self, local: Tensor, keep: Tensor | None = None) -> Tensor:
        out: Tensor = self.head(super().pool(local, keep))
        return out


def pictures(count: int, size: int = 32, first: int = 0) -> Batch:
    """Tinted gratings, the class giving tint and direction; 8-bit values, indices from `first`."""
    labels = torch.arange(count) % CLASSES
    draw = torch.Generator().manual_seed(7919 + first)
    angle = labels * (torch.pi / CLASSES) + 0.1 * torch.randn(count, generator=draw)
    phase = 6.28 * torch.rand(count, generator=draw)
    line = torch.linspace(0, 1, size)
    wave = torch.cos(angle)[:, None, None] * line + torch.sin(angle)[:, None, None] * line[:, None]
    grey = 0.5 + 0.3 * torch.sin(18 * wave + phase[:, None, None])
    tint = 0.15 * torch.cos(labels[:, None] + torch.tensor([0.0, 2.1, 4.2]))
    noise = 0.1 * torch.randn(count, 3, size, size, generator=draw)
    images = (grey[:, None] + tint[:, :, None, None] + noise).clamp(0, 1)
    images = (images * 255).round() / 255
    return Batch(images, labels, list(range(first, first + count)))


def tiny_subject(size: int = 32, stride: int = 8) -> Subject:
    """A `TinyEncoder` with random weights and a classifier fitted by least squares."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = TinyEncoder(size, stride)
    classifier = nn.Linear(encoder.dim, CLASSES)
    train = pictures(300, size, first=100_000)
    with torch.no_grad():
        features = encoder(train.images).double()
        targets = torch.eye(CLASSES).double()[train.labels]
        mean = features.mean(0)
        centred = features - mean
        gram = centred.T @ centred + 1e-3 * torch.eye(encoder.dim).double()
        weight = torch.linalg.solve(gram, centred.T @ targets)
        classifier.weight.copy_(20 * weight.T)
        classifier.bias.copy_(-20 * (mean @ weight))
    return Subject(encoder, classifier)


def split(batch: Batch, order: list[int]) -> Batch:
    """The samples of a batch at the given places, in that order."""
    return Batch(batch.images[order], batch.labels[order], [batch.index[i] for i in order])
