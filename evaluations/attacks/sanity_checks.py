"""Signs that an attack, and not the model, is why accuracy is high.

After Athalye et al. 2018 (arXiv 1802.00420, section 3.1), who list how obfuscated gradients show,
and Carlini et al. 2019 (arXiv 1902.06705, section 5): one step does better than many, a transferred
attack better than one that sees the gradients, random noise better than an attack, accuracy is left
without a bound, or does not fall with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from robustbench_coss.records.record import Cell, Check

CONTROL = "noise-linf"
SANITY = "sanity"  # the group of the conditions below
SCRATCH, MORE_STEPS = "from-scratch", "more-steps"
TRANSFER, GRADIENT = "transfer", "gradient"
UNBOUNDED_EPS = 64.0  # a quarter of the pixel range: almost any image can be turned into another
UNBOUNDED_LIMIT = 0.05  # accuracy left there above which the attack does not work
MORE = 5  # times the steps
FLAT_LIMIT = 0.01  # these images count as robust only because there is no direction to go
# Two runs of one attack from other random starts differ by as much.
SLACK = 0.01
NORMAL_95 = 1.96

Outcomes = NDArray[np.bool_]


def at(kind: str, eps: float) -> str:
    """Name of a condition at a radius in 1/255."""
    return f"{kind}@{eps:g}/255"


def run_checks(cells: Sequence[Cell]) -> list[Check]:
    """Every check that the measured conditions allow."""
    of = {cell.condition: cell for cell in cells}
    ladder = sorted((c for c in cells if c.group == "pgd-linf"), key=lambda c: c.level)
    found = [
        _fewer_at_larger(of, ladder),
        _unbounded(of),
        _no_more_than(of, ladder, CONTROL, "random noise breaks no more than PGD-ℓ∞"),
        _no_more_than(of, ladder, "fgsm", "a single step breaks no more than PGD-ℓ∞"),
        _no_more_than(of, ladder, TRANSFER, "a transferred attack breaks no more than PGD-ℓ∞"),
        *_more_steps(of, ladder),
        _flat(of),
    ]
    return [check for check in found if check is not None]


def _correct(cell: Cell) -> Outcomes:
    return np.asarray(cell.outcomes["correct"], dtype=bool)


def excess(high: Outcomes, low: Outcomes) -> float:
    """How far one accuracy exceeds another on the same images, beyond the 95 % margin.

    The lower end of the normal interval for the mean of the paired differences.
    """
    difference = high.astype(np.float64) - low
    margin = NORMAL_95 * math.sqrt(float(difference.var()) / len(difference))
    return float(difference.mean()) - margin


def _compare(name: str, pairs: Sequence[tuple[Outcomes, Outcomes, str]]) -> Check | None:
    """Check that in no pair (high, low, where) the first exceeds the second; None without any."""
    if not pairs:
        return None
    worst, where = max((excess(high, low), where) for high, low, where in pairs)
    return Check(
        name,
        worst <= SLACK,
        f"largest difference beyond the 95 % margin: {100 * worst:+.1f} points ({where}), at most "
        f"{100 * SLACK:.0f} expected",
    )


def _fewer_at_larger(of: Mapping[str, Cell], ladder: Sequence[Cell]) -> Check | None:
    """What is carried over from smaller radii is left out where the attack starts from scratch."""
    if not ladder:
        return None
    scratch = of.get(at(SCRATCH, ladder[-1].level))
    beyond = of.get(at(SCRATCH, UNBOUNDED_EPS))
    chain = [*ladder[-2:-1], *(c for c in (scratch, beyond) if c is not None)]
    return _compare(
        "PGD-ℓ∞ finds no less with a larger budget",
        [(_correct(b), _correct(a), f"{a.condition} to {b.condition}") for a, b in pairwise(chain)],
    )


def _unbounded(of: Mapping[str, Cell]) -> Check | None:
    cell = of.get(at(SCRATCH, UNBOUNDED_EPS))
    if cell is None:
        return None
    left = float(_correct(cell).mean())
    return Check(
        "a very large budget breaks the model",
        left <= UNBOUNDED_LIMIT,
        f"{left:.1%} right under {cell.condition}, at most {UNBOUNDED_LIMIT:.0%} expected",
    )


def _no_more_than(
    of: Mapping[str, Cell], ladder: Sequence[Cell], kind: str, name: str
) -> Check | None:
    pairs = [(cell, of[at(kind, cell.level)]) for cell in ladder if at(kind, cell.level) in of]
    return _compare(name, [(_correct(a), _correct(b), b.condition) for a, b in pairs])


def _more_steps(of: Mapping[str, Cell], ladder: Sequence[Cell]) -> list[Check | None]:
    """An attack that gains by more steps was stopped early; one that loses has no use of them."""
    pairs = [
        (_correct(cell), _correct(of[name]), name)
        for cell in ladder
        if (name := at(MORE_STEPS, cell.level)) in of
    ]
    return [
        _compare(
            f"{MORE} times the steps break hardly more",
            [(few, few & many, name) for few, many, name in pairs],
        ),
        _compare(
            f"{MORE} times the steps do not help the model",
            [(many, few, name) for few, many, name in pairs],
        ),
    ]


def _flat(of: Mapping[str, Cell]) -> Check | None:
    cell = of.get(GRADIENT)
    if cell is None:
        return None
    right = _correct(cell)
    share = float(cell.outcomes["flat"][right].mean()) if right.any() else 0.0
    return Check(
        "input gradients do not vanish",
        share <= FLAT_LIMIT,
        f"{share:.1%} of the rightly classified images have none, at most {FLAT_LIMIT:.0%} "
        "expected",
    )
