"""`coss-bench eval`: measure pretrained encoders with suites."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustbench_coss.cli.settings import parse_setting
from robustbench_coss.errors import CossError

if TYPE_CHECKING:
    from rich.console import Console

CLASSIFIER, MODEL = "Linear probe", "Models of other tools"
CORRUPTION, CLUSTER = "Corruptions", "Cluster"


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Run folders, encoder.safetensors files, checkpoints of other tools, "
            "torchvision:NAME[:WEIGHTS], timm:NAME[:WEIGHTS], or the controls control:pixels and "
            "control:untrained:ARCH[:WIDTH][:SEED].",
        ),
    ],
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
        typer.Option(help="Data set to measure on; default: the one trained on."),
    ] = None,
    transfer: Annotated[
        bool, typer.Option("--transfer", help="Allow a data set other than the pretraining one.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="An option of a suite, e.g. adversarial.attacks=[pgd-linf,square].",
            metavar="SUITE.KEY=VALUE",
        ),
    ] = None,
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
        str,
        typer.Option(
            help="Kind of linear probe: logistic, sgd or simclr.", rich_help_panel=CLASSIFIER
        ),
    ] = "logistic",
    probe_train: Annotated[
        int | None,
        typer.Option(
            help="Train the probe on so many images, a random subset; default: all.",
            rich_help_panel=CLASSIFIER,
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="Which tool wrote a checkpoint; auto recognises it by its keys.",
            rich_help_panel=MODEL,
        ),
    ] = "auto",
    arch: Annotated[
        str | None,
        typer.Option(
            help="Architecture of a checkpoint that does not say it.", rich_help_panel=MODEL
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Image size in px; default: what the model was made for.", rich_help_panel=MODEL
        ),
    ] = None,
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial",
            help="Load a checkpoint although some of its keys do not match.",
            rich_help_panel=MODEL,
        ),
    ] = False,
    backend: Annotated[
        str | None,
        typer.Option(
            help="What corrupts images: fast (torch, on --device), reference (imagecorruptions, "
            "on the CPU) or auto, which is fast.",
            rich_help_panel=CORRUPTION,
        ),
    ] = None,
    constants: Annotated[
        str | None,
        typer.Option(
            help="Strength of corruptions: imagenet-c or cifar-c; default: cifar-c up to 64 px.",
            rich_help_panel=CORRUPTION,
        ),
    ] = None,
    corruption_root: Annotated[
        Path | None,
        typer.Option(
            help="Ready-made corrupted images: a folder of ImageNet-C, Tiny-ImageNet-C or "
            "CIFAR-10-C.",
            metavar="FOLDER",
            rich_help_panel=CORRUPTION,
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Measure on a Ray cluster: HOST:PORT, or auto for the one on this machine.",
            metavar="ADDRESS",
            rich_help_panel=CLUSTER,
        ),
    ] = None,
    gpus_per_task: Annotated[
        float | None,
        typer.Option(
            help="Share of a GPU that a task of --cluster takes; default: a whole one.",
            rich_help_panel=CLUSTER,
        ),
    ] = None,
) -> None:
    """Measure how robust models are, suite by suite.

    A linear probe is trained once per encoder and shared by all suites; a classifier is measured
    with its own head. Each suite leaves a record with the outcome of every test image. What is up
    to date is skipped, and an interrupted evaluation continues when the same command is run again.

    Examples:

      coss-bench eval runs/co-byol

      coss-bench eval runs/byol runs/co-byol --suite clean,corruption --limit 1000

      coss-bench eval runs/co-byol --dataset cifar100 --transfer --device cuda

      coss-bench eval control:pixels control:untrained:rf29_resnet18:0.25 --dataset parts

      coss-bench eval timm:resnet18:a1_in1k --dataset imagenet --suite clean

      coss-bench eval dino.pth --dataset stl10 --set occlusion.stages=stage2
    """
    from rich.console import Console

    from robustbench_coss.evaluations.probes.linear import ProbeConfig
    from robustbench_coss.evaluations.progress import ConsoleProgress
    from robustbench_coss.evaluations.running.job import make_suite
    from robustbench_coss.evaluations.running.runner import (
        check_run,
        evaluate_run,
        measurable,
        suite_names,
    )
    from robustbench_coss.machine.environment import resolve_device
    from robustbench_coss.machine.executors import on_ray
    from robustbench_coss.models.load import load_model

    for option, value in (("--limit", limit), ("--batch-size", batch_size)):
        if value is not None and value < 1:
            raise CossError(f"{option} must be at least 1, got {value}")
    if probe_train is not None and probe_train < 1:
        raise CossError(f"--probe-train must be at least 1, got {probe_train}")
    if gpus_per_task is not None and cluster is None:
        raise CossError("--gpus-per-task is for --cluster; here, the device is the model's alone")
    config = ProbeConfig(kind=probe, max_train=probe_train)
    suites = suite_names(suite or ["all"])
    corruption = {"backend": backend, "constants": constants, "root": corruption_root}
    options = _suite_options(settings or [], suites, corruption)
    for name in suites:
        make_suite(name, options.get(name, {})).close()
    resolve_device(device)
    if cluster is not None:  # workers have a working folder of their own
        results, data_root = results.resolve(), data_root.resolve()
        models = [str(Path(m).resolve()) if Path(m).exists() else m for m in models]
    loads = [
        partial(
            load_model,
            m,
            format=form,
            arch=arch,
            allow_partial=allow_partial,
            size=size,
            dataset=dataset,
        )
        for m in models
    ]
    console = Console()
    everything = suite is None or any("all" in text.split(",") for text in suite)
    chosen: list[list[str]] = []
    # Every model is looked at before the first is measured: a typo in the last one should not cost
    # the hours spent on those before it.
    for load in loads:
        checkpoint = check_run(
            load,
            dataset=dataset,
            transfer=transfer,
            results=results,
            data_root=data_root,
            download=download,
        )
        wanted = measurable(checkpoint, suites) if everything else suites
        chosen.append(wanted)
        if left := [name for name in suites if name not in wanted]:
            console.print(
                f"{checkpoint.name}: left out {', '.join(left)}, which look at local "
                "representations; it has none",
                highlight=False,
                soft_wrap=True,
            )
        if checkpoint.preprocessing:
            line = f"{checkpoint.name}: {checkpoint.preprocessing}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    paths: list[Path] = []
    failures: dict[str, CossError] = {}
    with ExitStack() as stack:
        stack.enter_context(_ending_on_sigterm())
        executor = None
        if cluster is not None:
            share = (
                {"cpu": 0.0, "cuda": 1.0}.get(device) if gpus_per_task is None else gpus_per_task
            )
            executor = stack.enter_context(on_ray(cluster, share))
        progress = stack.enter_context(ConsoleProgress(Console(stderr=True)))
        try:
            for model, load, wanted in zip(models, loads, chosen, strict=True):
                try:
                    paths += evaluate_run(
                        load,
                        wanted,
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
                        options=options,
                        progress=progress,
                        executor=executor,
                    )
                except CossError as error:  # of this model; the others are measured all the same
                    failures[model] = error
        except KeyboardInterrupt:
            typer.echo("interrupted; run the same command again to continue", err=True)
            raise typer.Exit(130) from None
    if paths:
        _print_headlines(paths, console)
        option = "" if results == Path("results") else f" --results {results}"
        console.print(f"next: coss-bench leaderboard{option}", highlight=False, soft_wrap=True)
    if failures:
        named = len(models) > 1
        raise CossError("; ".join(f"{m}: {e}" if named else str(e) for m, e in failures.items()))
    _refuse_problems(paths)


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """While active, SIGTERM ends this process as an error does: worker processes end with it."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not disturb the end
        typer.echo("stopped; run the same command again to continue", err=True)
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _suite_options(
    settings: list[str], suites: list[str], corruption: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Keyword arguments of suites by name, from `--set` and the options for corruptions.

    Raises:
        CossError: an option is for a suite that is not measured.
    """
    given = [("corruption", key, value) for key, value in corruption.items() if value is not None]
    for text in settings:
        key, value = parse_setting(text, "occlusion.stages=[stage2]")
        name, _, option = key.partition(".")
        if not option:
            raise CossError(f"--set takes SUITE.KEY=VALUE; got {text!r}")
        given.append((name, option, value))
    options: dict[str, dict[str, Any]] = {}
    for name, option, value in given:
        if name not in suites:
            raise CossError(
                f"an option of suite {name!r} ({option}) is given, but only "
                f"{', '.join(suites)} will be measured; leave it out or add --suite {name}"
            )
        options.setdefault(name, {})[option] = value
    return options


def _refuse_problems(paths: list[Path]) -> None:
    """Name the cells whose outcomes are doubtful.

    Raises:
        CossError: there are any.
    """
    from robustbench_coss.records.record import read_record

    found = []
    for path in paths:
        record = read_record(path)
        found += [
            f"{record.model['name']} {record.suite} {cell.condition}: {cell.problem}"
            for cell in record.cells
            if cell.problem
        ]
    if found:
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        raise CossError(
            f"{len(found)} conditions are marked in their records: {'; '.join(found[:3])}{more}; "
            "images without a finite answer count as wrong"
        )


def _print_headlines(paths: list[Path], console: Console) -> None:
    """Print the headline numbers of records, model by model."""
    from rich.markup import escape

    from robustbench_coss.records.record import read_record

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
