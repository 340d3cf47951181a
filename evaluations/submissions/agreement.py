"""Whether outcomes that were measured again are those recorded: statistics on pairs of columns.

The same model on the same images gives the same outcomes but for rounding, which turns few of them,
about as many up as down. Each half of that is tested, cell by cell and for cells together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from robustbench_coss.statistics.intervals import estimate
from robustbench_coss.statistics.paired_tests import holm, mcnemar

ALPHA = 0.01
"""Chance that rounding alone fails a bundle, over all tests."""

SAME, OTHER, TRAINED = 0.001, 0.01, 0.1
"""Share of outcomes that rounding may turn: with the device and versions recorded, with others, and
with others where a network is trained before measuring. docs/submissions.md says what is known of
actual shares."""

CLOSE_SD, CLOSE_SHARE = (
    0.02,
    1e-4,
)  # numbers are equal within this of their spread and of themselves

Column = NDArray[Any]


@dataclass(frozen=True)
class Pair:
    """One column under one condition: as recorded and as measured again, [n] each."""

    recorded: Column
    again: Column

    @property
    def sign(self) -> NDArray[np.int8]:
        """[n]: 1 where the recorded outcome is higher, -1 where it is lower, 0 where both agree.

        Booleans and codes of probabilities agree if they are equal. Numbers agree within 2 % of the
        recorded column's standard deviation and 0.01 % of themselves, or if both are NaN.
        """
        if self.recorded.shape != self.again.shape:
            raise ValueError(f"{self.recorded.shape} outcomes recorded, {self.again.shape} again")
        a, b = self.recorded.astype(np.float64), self.again.astype(np.float64)
        if self.recorded.dtype == self.again.dtype and self.recorded.dtype in (bool, np.int8):
            return np.sign(a - b).astype(np.int8)
        known = np.isfinite(a)
        spread = float(a[known].std()) if known.any() else 0.0
        room = CLOSE_SD * spread + CLOSE_SHARE * np.abs(np.where(known, a, 0))
        same = (np.abs(a - b) <= room) | (a == b) | (np.isnan(a) & np.isnan(b))
        # What is a number on one side only differs; which way does not matter.
        sign = np.where(np.isnan(a - b), 1, np.sign(a - b))
        return np.where(same, 0, sign).astype(np.int8)

    @property
    def differs(self) -> NDArray[np.bool_]:
        """[n]: where the outcomes differ by more than rounding in the form they are held in, which
        may give a probability the code next to its own."""
        if self.recorded.dtype == self.again.dtype == np.int8:
            apart = self.recorded.astype(np.int16) - self.again
            return np.asarray(np.abs(apart) > 1)
        return np.asarray(self.sign != 0)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the recorded mean, as tables have it for a single run."""
        found = estimate([[self.recorded]], share=self.recorded.dtype == bool)
        return found.low, found.high

    @property
    def inside(self) -> bool:
        """Whether the new mean lies in the interval of the recorded one, or nothing differs."""
        low, high = self.interval
        mean = float(np.mean(self.again, dtype=np.float64))
        return not self.sign.any() or low <= mean <= high


@dataclass(frozen=True)
class Trial:
    """Two tests on one or several pairs of the same images.

    Attributes:
        about: what was tested.
        images: number of images.
        differ: images with an outcome that differs in any pair.
        higher, lower: images that are recorded higher on balance, or lower.
        p_share: of the hypothesis that rounding turns no more than the allowed share.
        p_direction: of the hypothesis that it turns outcomes up as often as down.
    """

    about: str
    images: int
    differ: int
    higher: int
    lower: int
    p_share: float
    p_direction: float


def try_pairs(about: str, pairs: Sequence[Pair], share: float) -> Trial:
    """Test pairs of the same images.

    An image counts once, however many of its outcomes differ: those under several conditions depend
    on each other. By Boole's inequality an image differs anywhere in K cells with a chance of at
    most K times that of one cell, so the count is held against a binomial with it; its upper tail
    is `p_share`. `p_direction` is the sign test, which for one pair is McNemar's exact test.

    Args:
        pairs: at least one.
        share: of outcomes that rounding may turn, in [0, 1].
    """
    signs = np.stack([pair.sign for pair in pairs])
    differ = int(np.any([pair.differs for pair in pairs], axis=0).sum())
    balance = signs.sum(axis=0, dtype=np.int64)
    higher, lower = int((balance > 0).sum()), int((balance < 0).sum())
    images = signs.shape[1]
    chance = min(1.0, share * len(pairs))
    tail = float(special.bdtrc(differ - 1, images, chance)) if differ else 1.0
    return Trial(about, images, differ, higher, lower, tail, mcnemar(higher, lower))


def corrected(tests: Sequence[Trial]) -> list[tuple[float, float]]:
    """(p_share, p_direction) of each test after Holm's correction for all of them together."""
    values = holm([p for test in tests for p in (test.p_share, test.p_direction)])
    return [(float(a), float(b)) for a, b in values.reshape(-1, 2)]
