"""Rank correlations over families whose members come in forms: base methods and their CO- forms."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from robustbench_coss.statistics.ranks import rank_correlation

CASES = {
    "two families of two forms, one with variants": (["a", "a", "a", "b", "b", "b"], "xyyxyy"),
    "one family": (["a"] * 6, "xxxyyy"),
    "unequal forms are not exchanged": (["a"] * 6, "xxyyyy"),
    "a family without a second form": (["a", "a", "b", "b", "c"], "xyxyx"),
    "families of turned make-up": (["a", "a", "a", "b", "b", "b"], "xyyxxy"),
}


def keeps(order: Sequence[int], families: Sequence[Hashable], forms: Sequence[Hashable]) -> bool:
    """Whether an order takes families to families and forms to forms, each as one."""
    taken: dict[tuple[str, Hashable], set[Hashable]] = {}
    for place, member in enumerate(order):
        taken.setdefault(("family", families[place]), set()).add(families[member])
        taken.setdefault(("form", forms[place]), set()).add(forms[member])
    return all(len(found) == 1 for found in taken.values())


@pytest.mark.parametrize("case", CASES)
def test_orders_keep_families_and_forms(case: str) -> None:
    families, forms = CASES[case]
    n = len(families)
    x, y = np.random.default_rng(len(case)).random((2, n))
    rho = stats.spearmanr(x, y).statistic
    as_far, count = 0, 0
    for order in permutations(range(n)):
        if keeps(order, families, forms):
            count += 1
            as_far += abs(stats.spearmanr(x, y[list(order)]).statistic) >= abs(rho) - 1e-9
    found = rank_correlation(x, y, families, list(forms))
    assert (found.value, found.p) == (pytest.approx(rho), as_far / count)


def test_drawn_orders_are_of_the_same_kind() -> None:
    """Ten families of two forms have 10! · 2 orders, of which some are drawn."""
    families, forms = [i // 2 for i in range(20)], ["base", "co"] * 10
    x = np.random.default_rng(3).random(20)
    found = rank_correlation(x, x, families, forms)
    assert found.p == pytest.approx(1 / 10_001)
    turned = rank_correlation(x[::-1], x[::-1], families[::-1], forms[::-1])
    assert turned.p == found.p
    # Numbers that say nothing but the form have two orders, and both are as far from 0.
    by_form = [float(form == "co") for form in forms]
    assert rank_correlation(by_form, by_form, families, forms).p == 1


@pytest.mark.parametrize(("methods", "variants"), [(1, 4), (2, 2), (7, 1)])
def test_what_a_form_has_in_common_is_one_witness(methods: int, variants: int) -> None:
    """What CO- models share (90 % of the variance) goes into both numbers, unrelated in each."""
    draw, cases = np.random.default_rng(22), 300
    families = [m for m in range(methods) for _ in range(2 * variants)]
    forms = [form for _ in range(methods) for form in (0, 1) for _ in range(variants)]
    decided = naive = 0
    for _ in range(cases):
        x, y = (
            math.sqrt(0.9) * draw.standard_normal(2)[forms]
            + math.sqrt(0.1) * draw.standard_normal(len(forms))
            for _ in range(2)
        )
        decided += rank_correlation(x, y, families, forms).p <= 0.05
        naive += rank_correlation(x, y, families).p <= 0.05
    # 2.6 standard deviations of a binomial of 300 at 5 % are 3.3 points.
    assert decided / cases < 0.083
    assert naive / cases > 0.15  # what forms are for
