"""Names of anybody reach the terminal as text, in any encoding, on any width and any device."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import simulate
from helpers.bench import Bench

from robustbench_coss import cli
from robustbench_coss.cli.measure import _print_headlines
from robustbench_coss.errors import CossError
from robustbench_coss.machine.terminal import Screen, clean
from robustbench_coss.records.record import Check

HOSTILE = "[bold]x[/b] [/] :smile: {0} %s \x1b[31mred\x1b]0;title\x07 \x9b2J \u202egnp.exe"


def on(stream: io.TextIOBase, monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The status of a command whose stdout is a stream."""
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "argv", ["coss-bench", *map(str, words)])
    monkeypatch.setenv("COLUMNS", "120")
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of two methods."""
    folder = tmp_path_factory.mktemp("plain")
    for method in ("byol", "co-byol"):
        simulate.save(folder / "results", simulate.clean(0.5, method=method))
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of two methods, and of a model with a hostile name."""
    folder = tmp_path_factory.mktemp("study")
    for method in ("byol", "co-byol"):
        simulate.save(folder / "results", simulate.clean(0.5, method=method))
    simulate.save(folder / "results", simulate.clean(0.7, method=HOSTILE, name=HOSTILE))
    return folder


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_commands_write_their_files_and_spell_what_an_encoding_lacks(
    study: Path, encoding: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in (study / "results").glob("leaderboard.*"):
        path.unlink()
    for words in (["leaderboard"], ["compare", "BYOL", "CO-BYOL"], ["doctor"]):
        raw = io.BytesIO()
        options = () if words == ["doctor"] else ("--results", study / "results")
        stream = io.TextIOWrapper(raw, encoding=encoding)
        assert on(stream, monkeypatch, *words, *options) == 0, capfd.readouterr().err
        assert capfd.readouterr().err == ""
        shown = raw.getvalue().decode(encoding)
        assert "50.0" in shown or words == ["doctor"]
        if encoding == "ascii" and words == ["leaderboard"]:
            assert "rf29_resnet18 x0.25" in shown  # × where there is one
    for ending in ("md", "csv", "tex"):
        assert (study / "results" / f"leaderboard.{ending}").stat().st_size > 0


def test_files_are_written_before_the_screen_is(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    """What can go wrong with a screen cannot cost a file."""

    def fail(*_: object, **__: object) -> None:
        raise CossError("no screen")

    monkeypatch.setattr(Screen, "print", fail)
    for path in (study / "results").glob("leaderboard.*"):
        path.unlink()
    picture = tmp_path / "fields.png"
    assert bench("leaderboard", "--results", study / "results").code == 1
    assert (study / "results" / "leaderboard.tex").exists()
    small = ("--width", 0.0625, "--image-size", 16)
    assert bench("arch", "rf9_resnet18", *small, "--picture", picture).code == 1
    assert picture.exists()


@pytest.mark.parametrize(
    "command", [["leaderboard"], ["compare", "{hostile}", "BYOL"], ["claims"], ["submit", "{hash}"]]
)
def test_markup_and_escapes_in_names_reach_the_terminal_as_text(
    study: Path, bench: Bench, command: list[str], tmp_path: Path
) -> None:
    (record,) = [
        path
        for path in (study / "results").rglob("clean.json")
        if json.loads(path.read_text())["model"]["name"] == HOSTILE
    ]
    sha = json.loads(record.read_text())["model"]["checkpoint_sha256"]
    words = [word.format(hostile=sha[:12], hash=sha[:12]) for word in command]
    found = bench(*words, "--results", study / "results")
    both = found.out + found.err
    assert "Traceback" not in both
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", both), both
    if command[0] == "leaderboard":
        assert (
            "[bold]x[/b] [/] :smile: {0} %s \\x1b[31mred\\x1b]0;title\\x07"
            in found.out.replace("\n", " ")
            or "[bold]x[/b]" in found.out
        )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ± ü 漢", "plain ± ü 漢"),
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b2J", "\\x9b2J"),
        ("back\x08\rreturn", "back\\x08\\rreturn"),
        ("\udcff\ud800", "\\udcff\\ud800"),
        ("\u202eexe\u2066", "\\u202eexe\\u2066"),
        ("line\u2028", "line\\u2028"),
        ("\x7f\x00", "\\x7f\\x00"),
    ],
)
def test_control_characters_are_made_visible(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_errors_and_names_of_files_with_undecodable_bytes_are_one_line(
    bench: Bench, tmp_path: Path
) -> None:
    name = os.fsdecode(b"run-\xff\x1b[31m")
    (tmp_path / name).mkdir()
    found = bench("eval", tmp_path / name, "--suite", "clean", "--dataset", "parts")
    assert found.code == 1
    assert len(found.err.splitlines()) == 1
    assert "run-\\udcff\\x1b[31m" in found.err


NUMBER = re.compile(r"\d[\d,]*\.?\d*")


@pytest.mark.parametrize("columns", ["20", "50"])
@pytest.mark.parametrize(
    "words",
    [
        ["leaderboard"],
        ["leaderboard", "--models", "BYOL,CO-BYOL", "--relative-to", "BYOL"],
        ["compare", "BYOL", "CO-BYOL", "--cells"],
        ["arch", "rf9_resnet18", "--width", "0.0625", "--image-size", "16"],
        ["sweep", "crop", "--dry-run"],
    ],
)
def test_narrow_terminals_cut_no_number(
    plain: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch, words: list[str], columns: str
) -> None:
    monkeypatch.chdir(plain)
    shown = []
    for width in ("400", columns):
        monkeypatch.setenv("COLUMNS", width)
        shown.append(bench(*words).out)
    wide, narrow = (set(NUMBER.findall(text)) for text in shown)
    assert narrow == wide
    assert "…" not in shown[1].replace("…", "", shown[0].count("…"))


LONG = {
    "one word": "m" + "0123456789" * 20,
    "many words": "12345 of 67890.5 " * 12,
    "wide characters": "漢字1234567890" * 15,
}


@pytest.mark.parametrize("kind", LONG)
def test_narrow_terminals_cut_no_number_of_long_names(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    name = LONG[kind]
    record = simulate.clean(0.5, name=name)
    record.model |= {"method": None, "arch": None, "training": {}}
    simulate.save(tmp_path / "results", record, simulate.clean(0.6, method="co-byol"))
    monkeypatch.chdir(tmp_path)
    for words in (
        ["leaderboard"],
        ["leaderboard", "--models", f"CO-BYOL,{name}", "--relative-to", "CO-BYOL"],
        ["compare", "CO-BYOL", name],
    ):
        shown = []
        for width in ("900", "20", "50"):
            monkeypatch.setenv("COLUMNS", width)
            found = bench(*words)
            assert found.code == 0, found.err
            shown.append(set(NUMBER.findall(found.out)))
        assert shown[1:] == [shown[0]] * 2, words


@pytest.mark.parametrize("kind", LONG)
def test_what_eval_prints_breaks_no_long_name(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    failed = [Check("sane", False, LONG[kind])]
    record = simulate.clean(0.5, name=LONG[kind], checks=failed)
    _print_headlines({Path("records/clean.json"): record}, Screen())
    assert capsys.readouterr().out.count(LONG[kind].strip()) == 2


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder whose name a shell would take apart."""
    folder = tmp_path / "it's $HOME; a (b) *"
    folder.mkdir()
    return folder


def test_hints_can_be_pasted_into_a_shell(odd: Path, bench: Bench) -> None:
    for method in ("byol", "co-byol"):
        simulate.save(odd / "results", simulate.clean(0.5, method=method))
    (odd / "run").mkdir()
    (odd / "run" / "last.ckpt").touch()
    found = bench("eval", odd / "run", "--suite", "clean")
    (hint,) = re.findall(r"`(coss-bench .*)`", found.err)
    assert shlex.split(hint)[-2:] == ["--out", str(odd / "run")]


@pytest.mark.parametrize("option", ["--results=~/r", "--out=~/table.md"])
def test_a_tilde_after_an_equals_sign_is_the_home_folder(
    study: Path, tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "r").symlink_to(study / "results")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    rest = ["--results", study / "results"] if option.startswith("--out") else []
    found = bench("leaderboard", "--models", "BYOL", option, *rest)
    assert found.code == 0, found.err
    assert not (tmp_path / "~").exists()
    assert (home / "table.md").exists() == option.startswith("--out")


@pytest.mark.parametrize("words", ["list", "leaderboard", "--help", "--version"])
def test_a_full_device_is_one_line_and_status_1(
    study: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], words: str
) -> None:
    monkeypatch.chdir(study)
    with open("/dev/full", "w", encoding="utf-8") as full:
        assert on(full, monkeypatch, words) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line == "error: the output cannot be written: No space left on device"


@pytest.mark.slow
def test_a_process_that_can_say_nothing_ends_without_a_traceback() -> None:
    """Full, closed, and with a reader that has seen enough: the interpreter's own end included."""
    command = f"{shlex.quote(sys.executable)} -m robustbench_coss list"
    for redirected, out, err, statuses in (
        (">/dev/full", 0, b"error: the output cannot be written: No space left on device\n", {1}),
        (">&-", 0, b"", {0}),
        ("| head -1", 1, b"", {0, 1, 141}),
    ):
        found = subprocess.run(
            ["bash", "-o", "pipefail", "-c", f"{command} {redirected}"],
            capture_output=True,
            timeout=240,
        )
        assert found.returncode in statuses
        assert found.stdout.count(b"\n") == out
        assert found.stderr == err
