"""Tables for papers: chosen rows and columns, hand-computed spreads and differences, real LaTeX."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, simulate
from scipy import stats
from statsmodels.stats.multitest import multipletests

from robustbench_coss.analysis.comparison import compare
from robustbench_coss.claims.verdicts import examine
from robustbench_coss.cli import main
from robustbench_coss.errors import CossError
from robustbench_coss.tables.cells import Section, TableCell, block
from robustbench_coss.tables.claims import layout as claims_layout
from robustbench_coss.tables.comparison import layout as comparison_layout
from robustbench_coss.tables.latex import to_latex as sections_to_latex
from robustbench_coss.tables.paper import PaperTable, paper_table
from robustbench_coss.tables.written import write_leaderboard


def line_of(table: PaperTable, model: str, metric: str = "clean_top1") -> Any:
    frame = table.frame
    (line,) = frame[frame["model"].str.startswith(model) & (frame["metric"] == metric)].to_dict(
        "records"
    )
    return line


def rows_of(markdown: str) -> list[list[str]]:
    """Cells of all table rows below the headings."""
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if row[0] not in ("Model", "---")]


def three_models(results: Path) -> None:
    """BYOL right on images 0 to 139 of 200, DINO on 0 to 99, SimCLR on 0 to 137."""
    simulate.save(
        results,
        simulate.clean(0.7),
        simulate.clean(0.5, method="dino"),
        simulate.clean(0.69, method="simclr"),
    )


def test_rows_and_columns_stand_in_the_order_asked_for(tmp_path: Path) -> None:
    three_models(tmp_path)
    table = paper_table(tmp_path, models=["simclr", "byol-s0"], metrics=["knn", "clean_top1"])
    text = table.to_markdown()
    assert "| Model | kNN | Top-1 |" in text
    assert [row[0].split(" ·")[0] for row in rows_of(text)] == ["SimCLR", "byol-s0"]
    assert [row[2].split(" [")[0] for row in rows_of(text)] == ["69.0", "**70.0**"]


def test_a_metric_that_is_no_headline_can_be_asked_for(tmp_path: Path) -> None:
    three_models(tmp_path)
    assert "Top-5" not in paper_table(tmp_path, suites=["clean"]).to_markdown()
    assert "| Model | Top-5 |" in paper_table(tmp_path, metrics=["top-5"]).to_markdown()


def test_standard_deviations_over_seeds_stand_beside_the_means(tmp_path: Path) -> None:
    shares = (0.5, 0.6, 0.7)  # mean 0.6, standard deviation 0.1
    simulate.save(tmp_path, *(simulate.clean(s, seed=i) for i, s in enumerate(shares)))
    simulate.save(tmp_path, simulate.clean(0.4, method="dino"))
    table = paper_table(tmp_path, metrics=["clean_top1"], spread="sd")
    (several,), (single,) = ([r[1]] for r in rows_of(table.to_markdown()))
    assert (several, single) == ("**60.0** ± 10.0", "40.0")
    assert r"\bfseries 60.0{\mdseries\scriptsize\,$\pm$\,10.0} \\" in table.to_latex()
    assert "mean ± standard deviation over seeds" in table.to_markdown()
    assert "interval" not in table.to_markdown()


def test_a_mark_says_what_differs_from_the_base_by_mcnemars_test(tmp_path: Path) -> None:
    three_models(tmp_path)
    table = paper_table(tmp_path, metrics=["clean_top1"], against="byol")
    # Of the images that one model alone has right, BYOL has all: 40 beside DINO, 2 beside SimCLR.
    expected = {name: stats.binomtest(0, k).pvalue for name, k in (("DINO", 40), ("SimCLR", 2))}
    for name, p in expected.items():
        assert line_of(table, name)["p"] == pytest.approx(p)
    assert line_of(table, "DINO")["difference"] == pytest.approx(-0.2)
    marked = {row[0]: r"\*" in row[1] for row in rows_of(table.to_markdown())}
    assert marked == {"BYOL": False, "DINO": True, "SimCLR": False}
    assert "$^*$" in table.to_latex()
    caption = "differs from BYOL by McNemar's exact test, p ≤ 0.05 after Holm's correction for 2"
    assert caption in table.to_markdown()


@pytest.mark.slow
def test_holms_correction_is_over_the_differences_shown_and_no_others(tmp_path: Path) -> None:
    simulate.all_suites(tmp_path, methods=("byol", "co-byol", "dino"), seeds=2, n=100)
    for metrics in (["clean_top1"], ["clean_top1", "corruption_top1", "mask_top1"]):
        table = paper_table(tmp_path, metrics=metrics, against="dino")
        compared = table.frame[table.frame["p"].notna()]
        assert len(compared) == 2 * len(metrics)
        corrected = multipletests(compared["p"], method="holm")[1]
        assert compared["p_holm"].tolist() == pytest.approx(corrected.tolist())
        assert compared["significant"].tolist() == [bool(p <= 0.05) for p in corrected]


def test_relative_tables_show_differences_and_the_values_of_the_base(tmp_path: Path) -> None:
    three_models(tmp_path)
    table = paper_table(tmp_path, metrics=["clean_top1"], relative_to="simclr")
    shown = {row[0]: re.sub(r"[*\\]| \[.*", "", row[1]) for row in rows_of(table.to_markdown())}
    assert list(shown.items()) == [("SimCLR", "69.0"), ("BYOL", "+1.0"), ("DINO", "−19.0")]
    assert "Differences to SimCLR" in table.to_markdown()
    assert "& -19.0$^*$ " in table.to_latex()


def test_a_base_that_is_not_among_the_rows_becomes_the_first(tmp_path: Path) -> None:
    three_models(tmp_path)
    table = paper_table(tmp_path, models=["byol"], metrics=["clean_top1"], against="dino")
    assert [row[0] for row in rows_of(table.to_markdown())] == ["DINO", "BYOL"]


def test_what_the_base_was_not_measured_in_is_a_dash_and_is_named(tmp_path: Path) -> None:
    simulate.all_suites(tmp_path, methods=("byol",), seeds=1, n=50)
    simulate.save(tmp_path, simulate.clean(0.5, n=50, method="dino"))
    table = paper_table(tmp_path, metrics=["clean_top1", "corruption_top1"], relative_to="dino")
    byol = next(row for row in rows_of(table.to_markdown()) if row[0].startswith("BYOL"))
    assert byol[2] == "–"
    assert math.isnan(line_of(table, "BYOL", "corruption_top1")["difference"])
    assert "Not compared: BYOL · rf29_resnet18 ×0.25: corruption on parts" in table.to_markdown()


def test_number_columns_have_room_for_sign_digits_and_marks() -> None:
    cells = [TableCell("9.51"), TableCell("−171.5", significant=True), TableCell("–")]
    words = [TableCell("<0.001"), TableCell("0.02"), TableCell("–")]
    section = Section("t", "c", (block([("x", cells), ("p", words)]),), ())
    latex = sections_to_latex("test", [section])
    assert r"{@{}S[table-format=-3.2,table-space-text-post={$^{*}$}]r@{}}" in latex
    assert "-171.5$^*$ & 0.02 " in latex
    assert "{--} & -- " in latex


def test_the_example_in_the_documentation_prints_a_frame_and_latex(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate.all_suites(tmp_path / "results", seeds=1, n=100)
    page = ROOT / "docs" / "results.md"
    (code,) = (
        c for c in re.findall(r"```python\n(.*?)```", page.read_text(), re.S) if "paper" in c
    )
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    printed = capsys.readouterr().out
    assert re.search(r"^CO-BYOL\S* .*0\.\d+ +0\.\d+$", printed, re.M)
    assert r"\begin{tabular}{@{}lS[" in printed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"models": ["byoll"]}, "no model 'byoll' was measured; did you mean byol-s0"),
        ({"metrics": ["clean_top"]}, "unknown metric 'clean_top'; did you mean clean_top"),
        ({"suites": ["clen"]}, "unknown suite 'clen'; did you mean clean?"),
        ({"against": "dinoo"}, "no model 'dinoo' was measured; did you mean dino"),
        ({"against": "byol", "relative_to": "dino"}, "give one of them"),
        ({"relative_to": "dino", "spread": "sd"}, "not standard deviations"),
        ({"models": ["byol"], "against": "byol"}, "nothing can be compared with BYOL"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_the_nearest_names(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    three_models(tmp_path)
    with pytest.raises(CossError, match=re.escape(said)):
        paper_table(tmp_path, **options)


def test_the_command_writes_where_it_is_told_and_leaves_the_leaderboard_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    three_models(tmp_path)
    before = [path.read_bytes() for path in write_leaderboard(tmp_path)]
    words = ["leaderboard", "--results", str(tmp_path), "--models", "BYOL,DINO"]
    for ending in ("md", "csv", "tex"):
        out = tmp_path / f"table.{ending}"
        for more in (["--out", str(out)], ["--format", ending]):
            monkeypatch.setattr(sys, "argv", ["coss-bench", *words, *more])
            with pytest.raises(SystemExit) as left:
                main()
            assert not left.value.code
        assert out.read_text() in capsys.readouterr().out
        assert "SimCLR" not in out.read_text()
    assert before == [(tmp_path / f"leaderboard.{e}").read_bytes() for e in ("md", "csv", "tex")]


def _has_latex() -> bool:
    if not (shutil.which("pdflatex") and shutil.which("kpsewhich")):
        return False
    found = subprocess.run(
        ["kpsewhich", "siunitx.sty", "booktabs.sty", "geometry.sty"], capture_output=True
    )
    return found.returncode == 0


@pytest.mark.skipif(not _has_latex(), reason="needs pdflatex with booktabs, geometry and siunitx")
def test_latex_sets_every_kind_of_table(tmp_path: Path) -> None:
    simulate.all_suites(
        tmp_path, methods=("byol", "co-byol", "a|b_50% & $x$ #1 {y} ~z^2"), seeds=2, n=40
    )
    tables = [
        paper_table(tmp_path).to_latex(),
        paper_table(tmp_path, spread="sd", against="byol").to_latex(),
        paper_table(tmp_path, relative_to="byol").to_latex(),
        sections_to_latex("compare", comparison_layout(compare(tmp_path, "CO-BYOL", "BYOL"))),
        sections_to_latex("claims", claims_layout(examine(tmp_path))),
    ]
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\n\\usepackage[textwidth=5.5in,textheight=9in]{geometry}\n"
        "\\usepackage{booktabs,siunitx}\n"
        "\\begin{document}\n" + "\n\\clearpage\n".join(tables) + "\n\\end{document}\n"
    )
    made = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert made.returncode == 0, made.stdout[-2000:]
    assert "Overfull" not in made.stdout
    assert "Float too large" not in made.stdout
    assert (tmp_path / "paper.pdf").stat().st_size > 0
