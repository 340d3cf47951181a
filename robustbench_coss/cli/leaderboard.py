"""Commands that turn records into tables and figures. They measure nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from robustbench_coss.errors import CossError
from robustbench_coss.machine.terminal import say, show

if TYPE_CHECKING:
    from robustbench_coss.tables.cells import Section
    from robustbench_coss.tables.paper import PaperTable

Results = Annotated[
    Path, typer.Option(help="Folder that `coss-bench eval` wrote its records into.")
]


Force = Annotated[
    bool, typer.Option("--force", help="Replace a file that this command did not write.")
]


Calibration = Annotated[
    bool,
    typer.Option(
        "--calibration", help="Add NLL, Brier score, ECE and more, computed from probabilities."
    ),
]


class Format(StrEnum):
    """How tables can be written."""

    md = "md"
    csv = "csv"
    tex = "tex"


TableFormat = Annotated[
    Format | None, typer.Option(help="Write this instead of a table for the terminal.")
]
OutFile = Annotated[
    Path | None,
    typer.Option(help="File to write; its ending says the format, unless --format does."),
]
F = TypeVar("F", bound=StrEnum)


class SpreadShown(StrEnum):
    """What stands beside the numbers of a table."""

    interval = "interval"
    sd = "sd"


def format_of(out: Path, formats: type[F]) -> F:
    """The one of some formats that a file's ending names.

    Raises:
        CossError: it names none.
    """
    ending = out.suffix.removeprefix(".").lower()
    known = [str(each) for each in formats]
    if ending not in known:
        *others, last = (f".{each}" for each in known)
        raise CossError(f"cannot tell the format of {out}; end it in {', '.join(others)} or {last}")
    return formats(ending)


def names_in(given: Sequence[str] | None) -> list[str]:
    """The names of an option that can be repeated or hold several, "a,b"."""
    return [name.strip() for text in given or [] for name in text.split(",") if name.strip()]


def deliver(text: str, out: Path | None, force: bool) -> None:
    """Print the text of tables, or write it to a file that holds such or that `force` gives up."""
    from robustbench_coss.files import write_chosen
    from robustbench_coss.tables.cells import mark_of

    if out is None:
        say(text, nl=False)
        return
    write_chosen(out, text, force=force, mark=mark_of(text))
    say(f"wrote {out}")


def deliver_tables(
    sections: Sequence[Section],
    heading: str,
    command: str,
    data: Callable[[], str],
    wanted: StrEnum | None,
    out: Path | None,
    force: bool,
) -> None:
    """Show tables, or deliver them as Markdown, LaTeX, or in the format that `data` gives."""
    from robustbench_coss.tables.cells import to_markdown
    from robustbench_coss.tables.latex import to_latex
    from robustbench_coss.tables.terminal import to_rich

    if wanted is None:
        show(to_rich(sections))
    elif wanted == "md":
        deliver(to_markdown(heading, sections, command), out, force)
    else:
        deliver(to_latex(command, sections) if wanted == "tex" else data(), out, force)


def leaderboard(
    results: Results = Path("results"),
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="alexnet|MODEL",
            help="Add mCE and relative mCE: corruption errors divided by those that AlexNet has on "
            "ImageNet-C, or by those of a measured model (label, run name or checkpoint hash).",
        ),
    ] = None,
    calibration: Calibration = False,
    models: Annotated[
        list[str] | None,
        typer.Option(help="Rows, in this order (repeat or a,b): labels, their first words, runs."),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(help="Columns, in this order (repeat or a,b): `clean_top1` or a heading."),
    ] = None,
    suites: Annotated[
        list[str] | None, typer.Option(help="Columns of these suites only (repeat or a,b).")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Mark what differs significantly from this model."),
    ] = None,
    relative_to: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Differences to this model, the significant marked."),
    ] = None,
    spread: Annotated[
        SpreadShown, typer.Option(help="95 % intervals, or standard deviations over seeds.")
    ] = SpreadShown.interval,
    format: TableFormat = None,
    out: OutFile = None,
    force: Force = False,
) -> None:
    """Print the leaderboard and write it as Markdown, CSV and LaTeX.

    One row per configuration, seeds put together; one table per test set; every number with its
    95 % interval. Reads records only, so it takes seconds and can be repeated at any time.

    With any of the options from --models on it makes a table for a paper instead, prints that and
    leaves the files in the results folder alone; --out says where to write it.

    Examples:

      coss-bench leaderboard

      coss-bench leaderboard --results /data/study/results

      coss-bench leaderboard --baseline alexnet

      coss-bench leaderboard --models BYOL,CO-BYOL --spread sd

      coss-bench leaderboard --suites clean,crop --relative-to BYOL --out table.tex
    """
    chosen = models or metrics or suites or against or relative_to or format or out
    if not chosen and spread is SpreadShown.interval:
        _print_whole(results, baseline, calibration)
        return
    from robustbench_coss.tables.paper import paper_table

    paper = paper_table(
        results,
        models=names_in(models),
        metrics=names_in(metrics),
        suites=names_in(suites),
        against=against,
        relative_to=relative_to,
        spread=spread.value,
        baseline=baseline,
        calibration=calibration,
    )
    _deliver(paper, format or (None if out is None else format_of(out, Format)), out, force)


def _print_whole(results: Path, baseline: str | None, calibration: bool) -> None:
    """Print the whole leaderboard and write its files."""
    from robustbench_coss.analysis.calibration import with_calibration
    from robustbench_coss.analysis.configurations import load_measurements
    from robustbench_coss.analysis.numbers import table_of
    from robustbench_coss.tables.leaderboard import to_rich
    from robustbench_coss.tables.written import write_conditions, write_leaderboard

    measured = load_measurements(results)
    if calibration:
        measured = with_calibration(measured)
    table = table_of(measured, baseline)
    written = write_leaderboard(results, measured, table)
    if calibration:
        written.append(write_conditions(results, measured))
    show(to_rich(table))
    for path in written:
        say(f"wrote {path}")


def _deliver(paper: PaperTable, wanted: Format | None, out: Path | None, force: bool) -> None:
    """Print a table, or write it."""
    if wanted is None:
        show(paper.to_rich())
        return
    writers = {Format.md: paper.to_markdown, Format.csv: paper.to_csv, Format.tex: paper.to_latex}
    deliver(writers[wanted](), out, force)
