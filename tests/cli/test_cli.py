"""The command line: help that helps, and one line for whatever users get wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.bench import Bench, Outcome
from helpers.command_line import complaint

from robustbench_coss import __version__
from robustbench_coss.cli import app
from robustbench_coss.pretrain.shipped import shipped_recipes

pytestmark = pytest.mark.usefixtures("small_bank")
COMMANDS = sorted(str(command.name) for command in app.registered_commands)


# Help


def test_help_lists_every_command(bench: Bench) -> None:
    outcome = bench("--help")
    assert outcome.code == 0
    for name in COMMANDS:
        assert re.search(rf"^. {name}  +[A-Z]", outcome.out, re.MULTILINE), name


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_shows_an_example_that_fits_80_columns(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    outcome = bench(name, "--help")
    assert outcome.code == 0
    examples = [line.strip() for line in outcome.out.splitlines() if f" coss-bench {name}" in line]
    command = next(c for c in app.registered_commands if c.name == name)
    assert command.callback is not None
    written = re.findall(
        rf"^ *(coss-bench {name}.*)$", command.callback.__doc__ or "", re.MULTILINE
    )
    assert written
    assert set(written) <= set(examples)  # whole: a wrapped example cannot be copied


def test_examples_name_recipes_that_are_shipped(bench: Bench) -> None:
    named = re.findall(r"--recipe ([\w-]+)$|--recipe ([\w-]+) -", bench("pretrain", "--help").out)
    assert named
    assert {first or second for first, second in named} <= set(shipped_recipes())


def test_version_is_printed(bench: Bench) -> None:
    assert bench("--version") == Outcome(0, f"robustbench-coss {__version__}\n", "")


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "robustbench_coss", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"robustbench-coss {__version__}\n",
        "",
    )


HEAVY = {"torch", "numpy", "pandas", "scipy", "matplotlib", "PIL", "timm", "yaml"}


def test_the_package_alone_loads_next_to_nothing_and_help_no_library_that_takes_long() -> None:
    script = (
        "import sys; before = set(sys.modules)\n"
        "import robustbench_coss; print(len(set(sys.modules) - before))\n"
        "from robustbench_coss import cli; sys.argv[1:] = ['eval', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: print(*{m.partition('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    alone, *_, loaded = done.stdout.splitlines()
    assert int(alone) < 40, done  # of the standard library
    assert HEAVY.isdisjoint(loaded.split()), done
    assert "typer" in loaded.split()


def test_a_misspelt_command_or_option_is_a_usage_error(bench: Bench) -> None:
    for arguments in (("pretrian",), ("pretrain", "--epoch", 3), ("eval",)):
        assert bench(*arguments).code == 2


def test_ctrl_c_in_any_command_is_one_line_and_status_130(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(kind: str) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr("robustbench_coss.cli.list.names", interrupt)
    assert bench("list") == Outcome(130, "", "interrupted\n")


def test_a_warning_is_one_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    bench("--version")
    assert warnings.formatwarning("too hot", UserWarning, "oven.py", 7) == "warning: too hot\n"


# The other commands


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("arch resnet17", "unknown encoder 'resnet17'; did you mean resnet18"),
        ("arch resnet18 --image-size 4", "--image-size must be at least 8 px, got 4"),
        ("arch resnet18 --width 0", "width must be above 0 and at most 8, got 0"),
        ("leaderboard --results gone", "no complete records in gone; measure a model first with"),
        ("plot --results gone", "no complete records in gone; measure a model first with"),
    ],
)
def test_a_command_refuses(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in complaint(bench(*arguments.split()))
    assert list(tmp_path.iterdir()) == []


def test_arch_shows_the_field_by_formula_and_by_gradient(bench: Bench) -> None:
    outcome = bench("arch", "rf29_resnet18", "--width", 0.125)
    assert outcome.code == 0, outcome.err
    assert re.search(r"receptive field \(formula\) +29 px", outcome.out)
    assert re.search(r"receptive field \(gradient\) +29 px", outcome.out)
