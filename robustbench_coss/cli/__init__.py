"""The command line, `coss-bench`: one module per command, errors as one line.

Commands import what they need when they run, so `coss-bench --help` is quick.
"""

from __future__ import annotations

import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from robustbench_coss import __version__
from robustbench_coss.cli.arch import arch
from robustbench_coss.cli.claims import claims
from robustbench_coss.cli.compare import compare
from robustbench_coss.cli.doctor import doctor, list_
from robustbench_coss.cli.evaluate import evaluate
from robustbench_coss.cli.export import export
from robustbench_coss.cli.leaderboard import leaderboard
from robustbench_coss.cli.plot import plot
from robustbench_coss.cli.pretrain import pretrain
from robustbench_coss.cli.quickstart import quickstart
from robustbench_coss.cli.report import report
from robustbench_coss.cli.show import show
from robustbench_coss.cli.site import site
from robustbench_coss.cli.submit import submit
from robustbench_coss.cli.sweep import sweep
from robustbench_coss.cli.verify import verify
from robustbench_coss.errors import CossError
from robustbench_coss.machine.allocator import keep_freed_memory

INTERRUPTED = 130  # the shell's convention: 128 + SIGINT


class _Commands(TyperGroup):
    """Ctrl-C in any command that does not answer it itself: one line, and the shell's status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
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
app.command("arch")(arch)
app.command("list")(list_)
app.command("doctor")(doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"robustbench-coss {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def _one_line(message: Warning | str, *where: object, **more: object) -> str:
    return f"warning: {message}\n"


def main() -> None:
    """Entry point: a CossError becomes one line on stderr and status 1."""
    warnings.formatwarning = _one_line  # users are not helped by our file names and line numbers
    keep_freed_memory()
    try:
        app()
    except CossError as error:
        typer.echo(f"error: {' '.join(str(error).splitlines())}", err=True)
        sys.exit(1)
