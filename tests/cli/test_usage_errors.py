"""What is wrong with the command line itself is said in one clean line, with where to read on."""

from __future__ import annotations

import pytest
from helpers.bench import Bench

ESCAPE, TITLE = "\x1b[31mred", "\x1b]0;title\x07"


@pytest.mark.parametrize(
    "arguments",
    [
        [f"ev{TITLE}al"],
        ["eval", f"--bo{ESCAPE}"],
        ["eval", "x", "--limit", f"3{ESCAPE}"],
        ["leaderboard", "--format", f"m{TITLE}d"],
        ["eval", "x", f"--limit={TITLE}\u202e3"],
        ["leaderboard", f"[bold]{ESCAPE}[/b]"],
        ["pretrain", f"--epoch[red]{ESCAPE}\n"],
        [f"--{ESCAPE}"],
    ],
)
def test_a_usage_error_is_one_line_without_control_characters(
    bench: Bench, arguments: list[str]
) -> None:
    found = bench(*arguments)
    assert found.code == 2
    assert found.out == ""
    assert found.err.endswith("\n")
    line = found.err[:-1]
    assert line.isprintable(), line
    assert line.startswith("error: ")
    assert "--help`" in line


def test_markup_and_the_nearest_name_stay_as_they_are(bench: Bench) -> None:
    assert "[bold]:smile:[/b]" in bench("arch", "resnet18", "[bold]:smile:[/b]").err
    assert "--epochs" in bench("pretrain", "--epoch", "3").err


def test_without_arguments_there_is_help(bench: Bench) -> None:
    found = bench()
    assert "pretrain" in found.out + found.err
    assert "error" not in found.err
