"""Probabilities beside right and wrong: the form that columns of outcomes hold them in.

One byte each, since a record holds them for every image under every condition.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from robustbench_coss.records.columns import Column

CONFIDENCE, TRUE_CLASS, OTHERS = "confidence", "true_class", "other_squares"
"""Columns: the probability of the answer, that of the true class, and the sum of the squared
probabilities of all classes but the answer."""
CONFIDENCES = (CONFIDENCE, TRUE_CLASS, OTHERS)

LARGEST_LOGIT = 32.0
SCALE = 127 / float(np.arcsinh(LARGEST_LOGIT / 2))
"""Codes of probabilities p, int8: round(SCALE · asinh(l / 2)) of l = ln(p / (1 - p)) within ±32.
Neighbours are 1.4 points apart at p = 1/2 and 3 % of their distance from 0 or 1 near these."""
SQUARES = 127 * 4
"""Codes of the sum of squares, which is at most 1/4: round(SQUARES · s), int8."""
NO_ANSWER = -128
"""Code where the model's answer is not finite."""


def logits_of(codes: Column) -> NDArray[np.float64]:
    """[n] l = ln(p / (1 - p)) of coded probabilities, NaN where there is no answer."""
    found = 2 * np.sinh(codes.astype(np.float64) / SCALE)
    return np.where(codes == NO_ANSWER, np.nan, found)


def squares_of(codes: Column) -> NDArray[np.float64]:
    """[n] sums of squares in [0, 1/4], NaN where there is no answer."""
    return np.where(codes == NO_ANSWER, np.nan, codes.astype(np.float64) / SQUARES)


STATISTICS = {
    "nll": (TRUE_CLASS,),
    "brier": CONFIDENCES,
    "ece": ("correct", CONFIDENCE),
    "auroc": ("correct", CONFIDENCE),
    "accuracy_at_80": ("correct", CONFIDENCE),
}
"""Numbers of a condition that are computed from several columns, by the name that a metric has for
them in place of a column, and the columns; see `statistics.calibration`."""


def has(outcomes: Mapping[str, object], column: str) -> bool:
    """Whether a condition has a column of outcomes, or all that a statistic is computed from."""
    return column in outcomes or all(k in outcomes for k in STATISTICS.get(column, (column,)))
