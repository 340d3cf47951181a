"""`coss-bench submit`: what was measured of a model, as one file that others can check."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from robustbench_coss.cli.leaderboard import Force, Results
from robustbench_coss.machine.terminal import say


def submit(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="Run folder, encoder.safetensors file, or any model that was measured: a run's "
            "name, a configuration's label, or the first characters of a checkpoint's SHA-256.",
        ),
    ],
    with_encoder: Annotated[
        bool, typer.Option("--with-encoder", help="Put the encoder into the bundle, too.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Bundle to write; default: MODEL-HASH.zip in this folder.", metavar="ZIP"
        ),
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(
            help="Write the numbers into a model repository: a section of its README.md, and "
            ".eval_results/*.yaml, which the Hugging Face Hub reads.",
            metavar="FOLDER",
        ),
    ] = None,
    robustbench: Annotated[
        Path | None,
        typer.Option(
            help="Write RobustBench's model_info files, where its protocol was followed.",
            metavar="FOLDER",
        ),
    ] = None,
    results: Results = Path("results"),
    force: Force = False,
) -> None:
    """Bundle a model's records for others, who can measure samples of them again.

    The bundle is one zip file with the records, the probes, the recipe of the run where there is
    one, versions and devices, the SHA-256 of the checkpoint and a manifest with that of every file.
    Equal records give equal bundles, byte for byte.

    Examples:

      coss-bench submit runs/co-byol --with-encoder

      coss-bench submit co-byol-s0 --out submissions/co-byol-s0.zip

      coss-bench submit runs/co-byol --card runs/co-byol/encoder-hf
    """
    from robustbench_coss.evaluations.submissions.card import write_card
    from robustbench_coss.evaluations.submissions.robustbench import write_model_info
    from robustbench_coss.evaluations.submissions.submit import measured
    from robustbench_coss.evaluations.submissions.submit import submit as write

    found = None
    if card is not None or robustbench is not None:
        found = measured(run, results)
        records = list(found[2].values())
        written = write_model_info(robustbench, records) if robustbench is not None else []
        written += write_card(card, records) if card is not None else []
        for file in written:
            say(f"wrote {file}")
    path, manifest = write(run, results, out, with_encoder, force, found)
    sizes = f"{len(manifest['records'])} records, {path.stat().st_size / 1e6:.1f} MB"
    say(f"wrote {path}: {manifest['model']['name']}, {sizes}")
    for record in manifest["records"]:
        say(f"  {record['dataset']} {record['suite']}: {record['n']:,} images")
    encoder = quote(run) if Path(run).exists() else "RUN"
    option = "" if with_encoder else f" --encoder {encoder}"
    say(f"next: coss-bench verify {quote(str(path))}{option}")
