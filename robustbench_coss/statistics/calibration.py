"""Whether a classifier knows when it is right: statistics of its probabilities, arrays in.

Columns by name: `correct`, whether the answer is right; `confidence` and `true_class`, the logits
l = ln(p / (1 - p)) of the probabilities of the answer and of the true class; `other_squares`, the
sum of the squared probabilities of all classes but the answer.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, log_expit

from robustbench_coss.statistics.functionals import Rows, Statistic, mean_of
from robustbench_coss.statistics.intervals import Floats

BINS = 15
COVERAGE = 0.8


def _nll(rows: Rows) -> Floats:
    return np.asarray(-log_expit(rows["true_class"]))


def _brier(rows: Rows) -> Floats:
    answer, true = expit(rows["confidence"]), expit(rows["true_class"])
    return np.asarray(answer**2 + rows["other_squares"] - 2 * true + 1)


def _ece(rows: Rows, counts: Floats) -> Floats:
    confidence = expit(rows["confidence"])
    if np.isnan(confidence).any():
        return np.full(len(counts), np.nan)
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.zeros((len(confidence), BINS))
    gaps[np.arange(len(place)), place] = confidence - rows["correct"]
    return np.asarray(np.abs(counts @ gaps).sum(axis=1) / counts.sum(axis=1))


def _levels(rows: Rows, counts: Floats) -> tuple[Floats, Floats]:
    """How many right and wrong answers have each confidence, [R, L], the surest last."""
    levels, place = np.unique(rows["confidence"], return_inverse=True)
    member = np.zeros((len(place), len(levels)))
    member[np.arange(len(place)), place.reshape(-1)] = 1
    right = rows["correct"] > 0
    return np.asarray((counts * right) @ member), np.asarray((counts * ~right) @ member)


def _auroc(rows: Rows, counts: Floats) -> Floats:
    if np.isnan(rows["confidence"]).any():
        return np.full(len(counts), np.nan)
    right, wrong = _levels(rows, counts)
    below = np.cumsum(wrong, axis=1) - wrong / 2
    pairs = right.sum(axis=1) * wrong.sum(axis=1)
    ordered = (right * below).sum(axis=1)
    return np.where(pairs > 0, ordered / np.maximum(pairs, 1), np.nan)


def _covered(rows: Rows, counts: Floats) -> Floats:
    if np.isnan(rows["confidence"]).any():
        return np.full(len(counts), np.nan)
    right, wrong = (each[:, ::-1] for each in _levels(rows, counts))
    both = right + wrong
    wanted = COVERAGE * both.sum(axis=1, keepdims=True)
    before = np.cumsum(both, axis=1) - both
    taken = np.clip((wanted - before) / np.maximum(both, 1), 0, 1)
    return np.asarray((taken * right).sum(axis=1) / wanted[:, 0])


NLL = mean_of(("true_class",), _nll, share=False)
"""Negative log-likelihood: the mean of -ln p of the true class, in nats."""
BRIER = mean_of(("confidence", "true_class", "other_squares"), _brier, share=False)
"""Brier (1950) score of all classes, in [0, 2]: the mean of the sum over classes of (p - y)²."""
ECE = Statistic(("correct", "confidence"), _ece, share=True)
"""Expected calibration error (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599) in 15 bins of
equal width, open below and closed above: the mean over images of |accuracy - mean confidence| of
the image's bin."""
AUROC = Statistic(("correct", "confidence"), _auroc, share=True)
"""Chance that a right answer is given with more confidence than a wrong one, ties counting half
(Hendrycks and Gimpel 2017, arXiv 1610.02136). NaN where all answers are right, or wrong."""
COVERED = Statistic(("correct", "confidence"), _covered, share=True)
"""Accuracy on the 80 % of images that are answered with most confidence (Geifman and El-Yaniv 2017,
arXiv 1705.08500); of images with equal confidence at the edge the expected share."""
