"""`coss-bench eval`: measure pretrained encoders with suites."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console


def evaluate(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or encoder.safetensors files.")],
    suite: Annotated[
        list[str] | None,
        typer.Option(help="Suites: repeat, or separate by commas; default: all."),
    ] = None,
    results: Annotated[
        Path, typer.Option(help="Folder for records and probes.", metavar="FOLDER")
    ] = Path("results"),
    limit: Annotated[
        int | None,
        typer.Option(help="Measure so many test images, a fixed random subset; default: all."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Data set to measure on; default: the one pretrained on."),
    ] = None,
    transfer: Annotated[
        bool, typer.Option("--transfer", help="Allow a data set other than the pretraining one.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Images measured at once.")] = 256,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the suites' draws.")] = 0,
    data_root: Annotated[Path, typer.Option(help="Folder of the data sets.")] = Path("data"),
    download: Annotated[
        bool, typer.Option("--download", help="Fetch a missing data set if it can be fetched.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Measure again what is up to date.")
    ] = False,
    probe: Annotated[
        str, typer.Option(help="Linear probe protocol: sgd, simclr or lbfgs.")
    ] = "sgd",
    probe_train: Annotated[
        int | None,
        typer.Option(help="Train the probe on so many images, a random subset; default: all."),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            help="What corrupts images: fast (torch, on --device), reference (imagecorruptions, "
            "on the CPU) or auto, which is fast."
        ),
    ] = "auto",
    constants: Annotated[
        str | None,
        typer.Option(
            help="Strength of corruptions: imagenet-c or cifar-c; default: cifar-c up to 64 px."
        ),
    ] = None,
    corruption_root: Annotated[
        Path | None,
        typer.Option(
            help="Ready-made corrupted images: a folder of ImageNet-C, Tiny-ImageNet-C or "
            "CIFAR-10-C.",
            metavar="FOLDER",
        ),
    ] = None,
) -> None:
    """Measure how robust pretrained encoders are, suite by suite.

    A linear probe is trained once per encoder and shared by all suites. Each suite leaves a record
    with the outcome of every test image. What is up to date is skipped, and an interrupted
    evaluation continues when the same command is run again.

    Examples:

      coss-bench eval runs/co-byol

      coss-bench eval runs/byol runs/co-byol --suite clean,corruption --limit 1000

      coss-bench eval runs/co-byol --dataset cifar100 --transfer --device cuda
    """
    from rich.console import Console

    from evaluations.probe import ProbeConfig
    from evaluations.progress import ConsoleProgress
    from evaluations.runner import check_run, evaluate_run, suite_names
    from robustbench_coss.environment import resolve_device
    from robustbench_coss.errors import CossError

    for option, value in (("--limit", limit), ("--batch-size", batch_size)):
        if value is not None and value < 1:
            raise CossError(f"{option} must be at least 1, got {value}")
    if probe_train is not None and probe_train < 1:
        raise CossError(f"--probe-train must be at least 1, got {probe_train}")
    config = ProbeConfig(protocol=probe, max_train=probe_train)
    suites = suite_names(suite or ["all"])
    corruption = {"backend": backend, "constants": constants, "root": corruption_root}
    if "corruption" in suites:
        # Imported only where it is needed: it brings a compiler with it.
        from evaluations.corruption import check_options

        check_options(backend, constants, corruption_root)
    resolve_device(device)
    # Every run is looked at before the first is measured: a typo in the last one should not cost
    # the hours spent on those before it.
    for run in runs:
        check_run(
            run,
            dataset=dataset,
            transfer=transfer,
            results=results,
            data_root=data_root,
            download=download,
        )
    paths: list[Path] = []
    try:
        with ConsoleProgress(Console(stderr=True)) as progress:
            for run in runs:
                paths += evaluate_run(
                    run,
                    suites,
                    dataset=dataset,
                    results=results,
                    limit=limit,
                    batch_size=batch_size,
                    device=device,
                    seed=seed,
                    data_root=data_root,
                    download=download,
                    force=force,
                    probe=config,
                    transfer=transfer,
                    options={"corruption": corruption},
                    progress=progress,
                )
    except KeyboardInterrupt:
        typer.echo("interrupted; run the same command again to continue", err=True)
        raise typer.Exit(130) from None
    console = Console()
    _print_headlines(paths, console)
    option = "" if results == Path("results") else f" --results {results}"
    console.print(f"next: coss-bench leaderboard{option}", highlight=False, soft_wrap=True)


def _print_headlines(paths: list[Path], console: Console) -> None:
    """Print the headline numbers of records, model by model."""
    from rich.markup import escape

    from robustbench_coss.records import read_record

    previous = None
    for path in paths:
        record = read_record(path)
        data = record.dataset
        model = (record.model["name"], record.model["checkpoint_sha256"], data["name"])
        if model != previous:
            previous = model
            chance = 100 / data["classes"]
            console.print(
                f"[bold]{escape(str(model[0]))}[/] on {escape(data['name'])}: {data['n']:,} test "
                f"images, {data['classes']} classes, chance {chance:.1f} %",
                highlight=False,
            )
            console.print(
                f"  records: {path.parent}", highlight=False, soft_wrap=True, markup=False
            )
        numbers = []
        for metric in record.metrics:
            if metric.headline:
                value = float(record.per_sample(metric).mean())
                shown = f"{100 * value:.1f} %" if metric.percent else f"{value:.3g}"
                numbers.append(f"{metric.label} {shown}")
        console.print(
            f"  {record.suite}: {', '.join(numbers) or 'no headline numbers'}",
            highlight=False,
            markup=False,
        )
        for check in record.checks:
            if not check.passed:
                console.print(
                    f"  [bold yellow]check failed:[/] {escape(check.name)}: {escape(check.detail)}",
                    highlight=False,
                )
