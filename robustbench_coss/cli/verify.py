"""`coss-bench verify`: whether a bundle of records holds what a new measurement finds."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer

from robustbench_coss.cli.eval_options import BatchSize, DataRoot, Device, Download
from robustbench_coss.machine.terminal import Screen, say


def verify(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="Zip file that `coss-bench submit` wrote.")
    ],
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Run folder, encoder or model that was measured; default: the one in the bundle.",
            metavar="RUN",
        ),
    ] = None,
    cells: Annotated[
        int, typer.Option(help="Conditions measured again per record, drawn at random.")
    ] = 5,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed of that draw; default: one that nobody can foresee, which is printed."
        ),
    ] = None,
    retrain_probe: Annotated[
        bool,
        typer.Option("--retrain-probe", help="Measure with a newly trained probe as well."),
    ] = False,
    batch_size: BatchSize = 256,
    device: Device = "auto",
    data_root: DataRoot = Path("data"),
    download: Download = False,
    corruption_root: Annotated[
        Path | None,
        typer.Option(
            help="Ready-made corrupted images, where records are of those.", metavar="FOLDER"
        ),
    ] = None,
) -> None:
    """Check a bundle: hashes, form, consistency; then measure a sample of it again.

    A line per condition says what was recorded, what was found and how many images agree; the last
    line is the verdict. The status is 0 if the bundle is reproduced, and 1 if it is not or cannot
    be checked. Nothing in a bundle is executed.

    Examples:

      coss-bench verify co-byol.zip --encoder runs/co-byol

      coss-bench verify co-byol.zip --retrain-probe --cells 10
    """
    from robustbench_coss.evaluations.progress import ConsoleProgress
    from robustbench_coss.evaluations.running.request import Evaluation
    from robustbench_coss.evaluations.submissions.verify import Plan
    from robustbench_coss.evaluations.submissions.verify import verify as check

    here = Evaluation(
        batch_size=batch_size,
        device=device,
        data_root=data_root,
        download=download,
        options={"corruption": {"root": corruption_root}},
    )
    drawn_with = secrets.randbelow(1 << 31) if seed is None else seed
    plan = Plan(drawn_with, cells, retrain_probe, here)
    with ConsoleProgress(Screen(stderr=True)) as progress:
        report = check(bundle, plan, encoder, progress)
    findings = report.findings()
    for finding in findings:
        say(f"{'✓' if finding.ok else '✗'} {finding.text}")
    for note in dict.fromkeys(report.notes):
        say(f"note: {note}")
    wrong = sum(not finding.ok for finding in findings)
    measured = f"{len(report.cells)} conditions measured again, drawn with --seed {report.seed}"
    if wrong:
        say(f"NOT REPRODUCED: {wrong} of {len(findings)} lines marked ✗; {measured}")
        raise typer.Exit(1)
    exact = "every outcome equal" if report.exact else "differences as small as rounding makes"
    say(f"reproduced: {exact}; {measured}")
