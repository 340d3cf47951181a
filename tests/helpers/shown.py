"""A tiny classifier, pixels as bytes, and files that are no pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_coss.evaluations.protocol import Subject
from robustbench_coss.evaluations.show import Classifier
from robustbench_coss.testing import CLASSES, pictures, tiny_subject


def tiny_classifier() -> tuple[Subject, Classifier]:
    subject = tiny_subject()
    names = tuple(f"kind {k}" for k in range(CLASSES))
    return subject, Classifier(subject.classifier, names, "a test")


def uint8(count: int = 1, size: int = 32) -> Tensor:
    return (pictures(count, size).images * 255).round().to(torch.uint8)
