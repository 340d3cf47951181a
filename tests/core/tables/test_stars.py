"""Marks of significance in tables for papers are those after Holm's correction."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import simulate
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from robustbench_coss.tables.paper import paper_table

N = 100
GAINS = {"co-byol": 7, "dino": 7, "mocov3": 14}  # images that the model alone has right


def test_a_p_below_five_percent_alone_is_no_mark(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.5, n=N, method="byol"))
    for method, more in GAINS.items():
        simulate.save(tmp_path, simulate.clean(0.5 + more / N, n=N, method=method))
    raw = [binomtest(0, more).pvalue for more in GAINS.values()]
    corrected = multipletests(raw, method="holm")[1]
    # 2 / 2^7 = 0.0156 is corrected to 0.031: both would do. Five more comparisons make it 0.11.
    assert (corrected <= 0.05).all()
    found = marks(tmp_path)
    assert found == {"CO-BYOL": True, "DINO": True, "MoCo v3": True}
    for extra in ("simclr", "co-simclr", "co-dino", "co-mocov3", "supervised"):
        simulate.save(tmp_path, simulate.clean(0.5, n=N, method=extra))
    raw += 5 * [1.0]
    corrected = multipletests(raw, method="holm")[1]
    assert raw[0] < 0.05 < corrected[0]
    assert corrected[2] < 0.05
    found = marks(tmp_path)
    assert {found[name] for name in ("CO-BYOL", "DINO")} == {False}
    assert found["MoCo v3"]


def marks(results: Path) -> dict[str, bool]:
    frame = paper_table(results, metrics=["clean_top1"], against="byol").frame
    compared = frame[frame["p"].notna()]
    names = [str(model).partition(" · ")[0] for model in compared["model"]]
    return dict(zip(names, map(bool, compared["significant"]), strict=True))


@pytest.mark.parametrize("form", ["markdown", "latex"])
def test_the_mark_is_printed_where_the_table_says_significant(tmp_path: Path, form: str) -> None:
    for method, more in {"byol": 0, "dino": 7, "mocov3": 14}.items():
        simulate.save(tmp_path, simulate.clean(0.5 + more / N, n=N, method=method))
    for extra in range(8):
        simulate.save(tmp_path, simulate.clean(0.5, n=N, method=f"other{extra}"))
    table = paper_table(tmp_path, metrics=["clean_top1"], against="byol")
    text = table.to_markdown() if form == "markdown" else table.to_latex()
    (dino,) = (line for line in text.splitlines() if line.lstrip("| ").startswith("DINO"))
    (moco,) = (line for line in text.splitlines() if line.lstrip("| ").startswith("MoCo v3"))
    assert "*" in moco
    assert "*" not in dino
