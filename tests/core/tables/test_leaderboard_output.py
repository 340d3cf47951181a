"""Every name is shown as it is, in every format; what is written and refused."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pandas as pd
import pytest
from helpers import simulate
from helpers.table_values import suite_record, value
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from robustbench_coss.analysis.numbers import load_table
from robustbench_coss.cli.leaderboard import leaderboard
from robustbench_coss.errors import CossError
from robustbench_coss.records.record import Cell, Check, Metric
from robustbench_coss.tables.cells import escape_markdown
from robustbench_coss.tables.latex import escape_latex
from robustbench_coss.tables.leaderboard import (
    to_csv,
    to_markdown,
    to_rich,
)
from robustbench_coss.tables.paper import paper_table
from robustbench_coss.tables.written import write_leaderboard

NASTY = "<script>alert(1)</script> a|b_50% & $x$ #1 {y} ~z^2 \\end"


def rendered(results: Path) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(to_rich(load_table(results)))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_a_failed_sanity_check_marks_its_suite_and_is_named_below(tmp_path: Path) -> None:
    checks = [Check("more steps do not help", False, "20 steps: +3.1 %"), Check("fine", True, "")]
    simulate.save(
        tmp_path,
        simulate.clean(0.5),
        suite_record("adversarial", 0.4, checks=checks),
        suite_record("adversarial", 0.3, seed=1),
        suite_record("adversarial", 0.2, method="co-byol"),
    )
    table = load_table(tmp_path)
    markdown, latex, terminal = (
        to_markdown(table),
        paper_table(tmp_path).to_latex(),
        rendered(tmp_path),
    )
    assert len(re.findall(r"\d\**†", markdown)) == 1
    assert "failed sanity check more steps do not help (1 of 2 seeds): 20 steps: +3.1 %" in markdown
    assert latex.count(r"$^\dagger$") == 2
    assert terminal.count("†") == 2
    assert "fine" not in markdown


def test_a_hostile_model_name_is_shown_and_not_executed(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.5, method=NASTY))
    table = load_table(tmp_path)
    markdown = to_markdown(table)
    assert "<script>" not in markdown
    assert "&lt;script&gt;alert(1)&lt;/script&gt; a\\|b_50%" in markdown
    # Every row of a table keeps its number of cells.
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    blocks = re.split(r"\n\n", "\n".join(line for line in markdown.splitlines()))
    for block in blocks:
        widths = {len(re.findall(r"(?<!\\)\|", r)) for r in block.splitlines() if r.startswith("|")}
        assert len(widths) <= 1
    assert rows
    latex = paper_table(tmp_path).to_latex()
    assert r"a\textbar{}b\_50\% \& \$x\$ \#1 \{y\} \textasciitilde{}z\textasciicircum{}2" in latex
    assert r"\textbackslash{}end" in latex
    csv = pd.read_csv(io.StringIO(to_csv(table)))
    assert set(csv["method"]) == {NASTY}
    assert "<script>alert(1)</script>" in rendered(tmp_path)


def test_markup_of_the_terminal_library_in_a_name_is_shown_as_text(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.5, method="[red]x[/red]"))
    assert "[red]x[/red]" in rendered(tmp_path)


@given(st.text())
def test_escaped_latex_has_no_active_character_left(text: str) -> None:
    escaped = escape_latex(text)
    for ours in (r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}"):
        escaped = escaped.replace(ours, "")
    for ours in (r"\textless{}", r"\textgreater{}", r"\textbar{}"):
        escaped = escaped.replace(ours, "")
    escaped = re.sub(r"\$(\\[a-z]+|-|\^2|\^\\dagger)\$", "", escaped)
    escaped = re.sub(r"\\[{}%_&#$]", "", escaped).removeprefix("{}")
    assert not re.search(r"[{}%_&#$~^\\\n]", escaped)


@given(st.text())
def test_escaped_markdown_has_no_bare_pipe_tag_or_line_break(text: str) -> None:
    escaped = escape_markdown(text)
    assert not re.search(r"[<>\n\r]", escaped)
    assert not re.search(r"(?<!\\)(\\\\)*\|", escaped)


def test_latex_tables_have_as_many_cells_as_columns(tmp_path: Path) -> None:
    simulate.all_suites(tmp_path, seeds=2, n=40)
    latex = paper_table(tmp_path).to_latex()
    plain = re.sub(r"S\[.*?\]|>\{.*?\}p\{\d+pt\}", "l", latex)
    tables = re.findall(r"begin\{tabular\}\{@\{\}([lr]+)@\{\}\}(.*?)\\end\{tabular\}", plain, re.S)
    assert len(tables) >= 2
    for columns, body in tables:
        for line in body.splitlines():
            if line.endswith(r" \\"):
                spans = [int(n) for n in re.findall(r"multicolumn\{(\d+)\}", line)]
                places = len(re.findall(r"(?<!\\)&", line)) + 1 + sum(spans) - len(spans)
                assert places == len(columns)
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == len(tables)
    assert latex.count(r"\begin{table}") == latex.count(r"\label{tab:") == 1
    assert r"\cmidrule(lr){2-" in latex
    assert r"$\ell_\infty$" in latex
    assert "resizebox" not in latex


def test_the_terminal_states_the_chance_level_below_the_table(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.5, classes=8))
    assert "Chance level (top-1): 12.5 %" in rendered(tmp_path)


def test_the_csv_holds_every_metric_at_full_precision(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(1 / 3, n=300))
    write_leaderboard(tmp_path)
    csv = pd.read_csv(tmp_path / "leaderboard.csv")
    assert set(csv["metric"]) == {"clean_top1", "clean_top5", "clean_knn"}
    assert value(csv, "BYOL", "clean_top1")["value"] == 100 / 300
    assert "top5" not in (tmp_path / "leaderboard.md").read_text()  # not a headline metric


def test_writing_twice_gives_the_same_bytes_and_leaves_nothing_else(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.5), suite_record("crop", 0.3))
    first = [path.read_bytes() for path in write_leaderboard(tmp_path)]
    assert [path.read_bytes() for path in write_leaderboard(tmp_path)] == first
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"records", "leaderboard.md", "leaderboard.csv", "leaderboard.tex"}


def test_no_records_is_an_error_that_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(CossError, match=r"no complete records.*coss-bench eval") as error:
        load_table(tmp_path / "nowhere")
    assert "\n" not in str(error.value)


def test_a_record_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    record = simulate.clean(0.5)
    record.metrics = [Metric("m", "M", "correct", ("elsewhere",))]
    simulate.save(tmp_path, record)
    with pytest.raises(CossError, match="metric m is of elsewhere, which is not there"):
        load_table(tmp_path)


def test_outcomes_of_another_length_than_the_images_are_refused(tmp_path: Path) -> None:
    record = simulate.clean(0.5, n=20)
    record.cells[0].outcomes["correct"] = simulate.exactly(0.5, 19)
    simulate.save(tmp_path, record)
    with pytest.raises(CossError, match=r"cells\[0\]\.outcomes\.correct: 19 values where 20 "):
        load_table(tmp_path)


def test_the_command_prints_the_table_and_the_files_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate.save(tmp_path, simulate.clean(0.5))
    leaderboard(tmp_path)
    printed = capsys.readouterr().out
    assert "50.0" in printed
    for suffix in ("md", "csv", "tex"):
        assert (tmp_path / f"leaderboard.{suffix}").is_file()
    assert printed.count("wrote ") == 3


def test_doubtful_outcomes_mark_their_suite_as_a_failed_check_does(tmp_path: Path) -> None:
    doubtful, fine = (suite_record("crop", 0.4, seed=s) for s in range(2))
    doubtful.cells[0].problem = "3 of 200 outputs are NaN or infinite"
    doubtful.cells.append(Cell("d", "g", 2.0, doubtful.cells[0].outcomes, problem="1 of 200"))
    simulate.save(
        tmp_path, simulate.clean(0.5), doubtful, fine, suite_record("crop", 0.2, method="co-byol")
    )
    table = load_table(tmp_path)
    markdown = to_markdown(table)
    assert len(re.findall(r"\d\**†", markdown)) == 1
    assert (
        "† BYOL · rf29_resnet18 ×0.25, crop: doubtful outcomes under c and 1 more condition "
        "(1 of 2 seeds): 3 of 200 outputs are NaN or infinite." in markdown
    )
    assert paper_table(tmp_path).to_latex().count(r"$^\dagger$") == 2
    assert rendered(tmp_path).count("†") == 2
    csv = pd.read_csv(io.StringIO(to_csv(table)), keep_default_na=False)
    assert {line["suite"] for _, line in csv.iterrows() if line["problems"]} == {"crop"}
