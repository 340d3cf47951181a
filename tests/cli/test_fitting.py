"""Tables fit the terminal and lose nothing; every command can be read in any encoding."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from helpers import simulate
from helpers.bench import Bench
from helpers.claim_cases import top1
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from robustbench_coss import cli
from robustbench_coss.cli import app
from robustbench_coss.cli.list import Kind
from robustbench_coss.machine.terminal import times
from robustbench_coss.tables.cells import Section, TableCell, block, packs, without_constants
from robustbench_coss.tables.terminal import to_rich

NUMBER = re.compile(r"\d[\d,]*\.?\d*")
TABLES = (["leaderboard"], ["compare", "CO-BYOL", "BYOL", "--all"], ["claims"])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results of two methods in all suites."""
    folder = tmp_path_factory.mktemp("fitting")
    simulate.all_suites(folder / "results", seeds=2, n=40)
    return folder


@pytest.mark.parametrize("words", TABLES, ids=lambda words: words[0])
def test_at_80_and_120_columns_no_line_is_longer_and_no_number_is_lost(
    study: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(study)
    numbers = {}
    for width in (80, 120, 1000):
        monkeypatch.setenv("COLUMNS", str(width))
        found = bench(*words)
        assert found.code == 0, found.err
        assert max(map(cell_len, found.out.splitlines())) <= width
        numbers[width] = set(NUMBER.findall(found.out))
    assert numbers[80] == numbers[120] == numbers[1000]


def test_a_wide_terminal_has_all_columns_side_by_side_and_a_narrow_one_repeats_the_names() -> None:
    names = ("Model", [TableCell(name) for name in ("a", "b")])
    columns = [(f"c{k}", [TableCell(f"{k}{k}.5", f"[{k}, {k}]")] * 2) for k in range(9)]
    section = Section("t", "", (block([names, *columns]),), ())

    def heads(width: int) -> list[str]:
        console = Console(file=io.StringIO(), width=width)
        console.print(to_rich([section]))
        return [line for line in console.file.getvalue().splitlines() if "Model" in line]  # type: ignore[attr-defined]

    (whole,) = heads(200)
    assert whole.split() == ["Model", *(f"c{k}" for k in range(9))]
    parts = [line.split() for line in heads(40)]
    assert [part[0] for part in parts] == ["Model"] * len(parts)
    assert [head for part in parts for head in part[1:]] == [f"c{k}" for k in range(9)]


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 30)), min_size=2, max_size=9),
    st.integers(20, 120),
)
def test_packs_hold_every_column_once_and_keep_to_the_width(
    sizes: list[tuple[int, int]], width: int
) -> None:
    sizes = [(least, least + more) for least, more in sizes]
    found = list(packs(sizes, width, 2, width // 3))
    assert [k for numbers, _ in found for k in numbers[1:]] == list(range(1, len(sizes)))
    for numbers, widths in found:
        assert numbers[0] == 0
        assert all(w >= sizes[k][0] for k, w in zip(numbers, widths, strict=True))
        whole = sum(widths) + 2 * (len(widths) - 1)
        assert whole <= width or len(numbers) == 2


def test_what_all_rows_share_is_said_once() -> None:
    columns = [
        ("Width", [TableCell("0.5")] * 3),
        ("p (Holm)", [TableCell("0.1")] * 3),
        ("Epochs", [TableCell("–")] * 3),
        ("Seeds", [TableCell("3"), TableCell("3"), TableCell("5")]),
    ]
    kept, said = without_constants(columns)
    assert [heading for heading, _ in kept] == ["Seeds"]
    assert said == ["width 0.5", "p (Holm) 0.1"]
    assert without_constants([("Width", [TableCell("0.5")])])[1] == []


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_the_help_of_every_command_can_be_read_in_any_encoding(
    encoding: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    names = [command.name for command in app.registered_commands]
    assert "leaderboard" in names
    for words in [["list"], ["list", "recipes"], *([name, "--help"] for name in names)]:
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        monkeypatch.setattr(sys, "argv", ["coss-bench", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code, words
        assert len(raw.getvalue().decode(encoding)) > 100
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", list(Kind))
def test_everything_listed_has_a_line_of_description(bench: Bench, kind: Kind) -> None:
    out = bench("list", kind.value).out
    rows = [line for line in out.splitlines()[4:] if line[:1] == " " and line[1:2].strip()]
    assert rows
    assert all(len(row.split()) > 2 for row in rows)


def test_names_are_listed_in_natural_order(bench: Bench) -> None:
    lines = bench("list", "encoders").out.splitlines()
    names = [line.split()[0] for line in lines if "px" in line]
    places = [names.index(name) for name in ("rf9_resnet18", "rf13_resnet18", "rf171_resnet50")]
    assert places == sorted(places)


def test_optional_data_sets_that_are_not_there_are_no_failure(bench: Bench, tmp_path: Path) -> None:
    out = bench("doctor", "--data-root", tmp_path, "--results", tmp_path).out
    assert "– data set cifar10: not there" in out
    assert "✗" not in out


def test_compare_begins_with_its_verdict_and_tests_the_headline_metrics(
    study: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study)
    monkeypatch.setenv("COLUMNS", "200")
    short, whole = (bench("compare", "CO-BYOL", "BYOL", *more).out for more in ([], ["--all"]))
    assert short.startswith("CO-BYOL")
    assert short.splitlines()[0].endswith(".")
    assert "Top-5" not in short
    assert "Top-5" in whole


def test_claims_name_their_records_with_verbose_alone(tmp_path: Path, bench: Bench) -> None:
    shown = tmp_path / "results"
    simulate.save(shown, *top1((0.6, 0.7), "byol"), *top1((0.6, 0.8), "co-byol"))
    assert "Records of" not in bench("claims", "--results", shown).out
    assert "Records of CO-BYOL" in bench("claims", "--verbose", "--results", shown).out


@pytest.mark.parametrize(
    ("elapsed", "left", "said"),
    [
        (80.4, 40, "1:20 elapsed, 0:40 left"),
        (3661, 59.6, "1:01:01 elapsed, 1:00 left"),
        (0, None, "0:00 elapsed"),
    ],
)
def test_progress_says_how_long_it_took_and_will_take(
    elapsed: float, left: float | None, said: str
) -> None:
    assert times(elapsed, left) == said
