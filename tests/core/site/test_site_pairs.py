"""Which models the comparison page can tell apart."""

from __future__ import annotations

from pathlib import Path

from helpers import simulate

from robustbench_coss.pages.site.data import load_site
from robustbench_coss.pages.site.pairs import BEST


def test_a_co_model_stands_before_its_base_method_and_no_other_with_its_name(
    tmp_path: Path,
) -> None:
    recipe = {"epochs": 3, "seed": 0, "options": {"ema": 0.9}}
    local = recipe | {"options": {"ema": 0.9, "w_s": 0.3}}
    others = [  # too many for all pairs of the two below them
        simulate.clean(0.9 - k / 100, n=100, method=f"other{k}") for k in range(BEST)
    ]
    simulate.save(
        tmp_path,
        *others,
        simulate.clean(0.5, n=100, method="byol", training={"recipe": recipe}),
        simulate.clean(0.4, n=100, method="co-byol", training={"recipe": local}),
        simulate.clean(0.3, n=100, method="dino", training={"recipe": recipe}),
        simulate.clean(0.2, n=100, method="co-dino", training={"recipe": local | {"epochs": 9}}),
    )
    site = load_site(tmp_path)
    name = {row.page: row.name for row in site.boards[0].rows}
    pairs = [(name[p.a], name[p.b]) for p in site.beside[0].pairs]
    assert pairs[0] == ("CO-BYOL", "BYOL")
    assert {x for pair in pairs[1:] for x in pair} == {f"other{k}" for k in range(BEST)}
    assert len(pairs) == 1 + BEST * (BEST - 1) / 2
