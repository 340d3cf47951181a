"""The command line, `coss-bench`: one module per command, errors as one line.

Commands import what they need when they run, so `coss-bench --help` is quick.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from robustbench_coss import __version__
from robustbench_coss.cli.arch import arch
from robustbench_coss.cli.claims import claims
from robustbench_coss.cli.compare import compare
from robustbench_coss.cli.doctor import doctor
from robustbench_coss.cli.evaluate import evaluate
from robustbench_coss.cli.export import export
from robustbench_coss.cli.leaderboard import leaderboard
from robustbench_coss.cli.list import list_
from robustbench_coss.cli.plot import plot
from robustbench_coss.cli.pretrain import pretrain
from robustbench_coss.cli.quickstart import quickstart
from robustbench_coss.cli.report import report
from robustbench_coss.cli.show import show
from robustbench_coss.cli.site import site
from robustbench_coss.cli.submit import submit
from robustbench_coss.cli.sweep import sweep
from robustbench_coss.cli.verify import verify
from robustbench_coss.cli.zoo import zoo
from robustbench_coss.errors import CossError
from robustbench_coss.machine.allocator import keep_freed_memory
from robustbench_coss.machine.terminal import (
    ending_without_output,
    prepare_streams,
    say,
    warning_line,
)

WHOLE_NUMBERS = (
    *("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK"),
    *("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS_PER_NODE"),
    *("SLURM_JOB_NUM_NODES", "MASTER_PORT", "SOURCE_DATE_EPOCH", "JSM_NAMESPACE_RANK"),
)
"""Environment variables that torch, Lightning or matplotlib read as numbers."""

USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # click's, of which typer may carry its own
INTERRUPTED = 130  # the shell's convention: 128 + SIGINT


class _Commands(TyperGroup):
    """What holds for all commands.

    Ctrl-C where a command does not answer it itself is one line, and the shell's status. `~` after
    an equals sign, which shells leave alone, is the home folder.
    """

    def main(self, args: Sequence[str] | None = None, *rest: Any, **more: Any) -> Any:
        words = sys.argv[1:] if args is None else args
        if nul := next((word for word in words if "\0" in word), None):
            raise CossError(f"no argument may hold a NUL character: {nul!r}")
        return super().main([_at_home(word) for word in words], *rest, **more)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="coss-bench",
    cls=_Commands,
    help="Pretrain CO-SSL encoders and measure how robust any vision encoder is.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("quickstart")(quickstart)
app.command("pretrain")(pretrain)
app.command("sweep")(sweep)
app.command("eval")(evaluate)
app.command("leaderboard")(leaderboard)
app.command("compare")(compare)
app.command("claims")(claims)
app.command("plot")(plot)
app.command("site")(site)
app.command("report")(report)
app.command("show")(show)
app.command("export")(export)
app.command("submit")(submit)
app.command("verify")(verify)
app.command("zoo")(zoo)
app.command("arch")(arch)
app.command("list")(list_)
app.command("doctor")(doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"robustbench-coss {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def _check_environment() -> None:
    """Refuse what launchers and others set wrongly, before a library fails over it."""
    for name in WHOLE_NUMBERS:
        if (value := os.environ.get(name)) and not value.strip().isdigit():
            raise CossError(
                f"the environment variable {name} must be a whole number, got {value!r}; "
                "put it right or unset it"
            )
    os.environ["MPLBACKEND"] = "agg"  # figures go to files, whatever another program drew on


def _at_home(word: str) -> str:
    option, equals, value = word.partition("=")
    if option.startswith("--") and value.startswith("~"):
        return f"{option}{equals}{os.path.expanduser(value)}"
    return word


def _usage_error(error: Any) -> str:
    """What the command line could not be read as, in one line, and where to read on."""
    what = " ".join(error.format_message().split()).rstrip(".")
    return f"{what}; see `{error.ctx.command_path} --help`" if error.ctx else what


def main() -> None:
    """Entry point: a CossError becomes one line on stderr and status 1."""
    prepare_streams()
    warnings.formatwarning = warning_line
    keep_freed_memory()
    with ending_without_output():
        try:
            _check_environment()
            sys.exit(app(standalone_mode=False))
        except USAGE_ERROR as error:
            if type(error).__name__ != "NoArgsIsHelpError":  # whose help is there already
                say(f"error: {_usage_error(error)}", err=True)
            sys.exit(error.exit_code)
        except CossError as error:
            say(f"error: {' '.join(str(error).splitlines())}", err=True)
            sys.exit(1)
        except OSError as error:
            if error.filename is None and error.errno is not None:  # of the screen
                raise
            what = f"cannot use {error.filename!s:.300}: {error.strerror}"
            say(f"error: {error if error.filename is None else what}", err=True)
            sys.exit(1)
