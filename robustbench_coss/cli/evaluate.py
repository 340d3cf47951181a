"""`coss-bench eval`: measure pretrained encoders with suites."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from robustbench_coss.cli import eval_options as o
from robustbench_coss.cli.settings import (
    at_least_one,
    colour,
    not_the_root,
    possible_size,
    suite_options,
)
from robustbench_coss.errors import CossError


def evaluate(
    models: o.Models,
    suite: o.Suites = None,
    results: o.ResultsFolder = Path("results"),
    limit: o.Limit = None,
    image_list: o.ImageList = None,
    dataset: o.DataSetName = None,
    transfer: o.Transfer = False,
    settings: o.Settings = None,
    batch_size: o.BatchSize = 256,
    device: o.Device = "auto",
    precision: o.Precision = "32",
    compiled: o.Compile = False,
    workers: o.Workers = None,
    skip_bad_images: o.SkipBadImages = False,
    seed: o.Seed = 0,
    data_root: o.DataRoot = Path("data"),
    download: o.Download = False,
    force: o.Force = False,
    probe: o.ProbeKind = "logistic",
    probe_train: o.ProbeTrain = None,
    form: o.Format = "auto",
    arch: o.Arch = None,
    size: o.Size = None,
    weights: o.Weights = None,
    stem: o.Stem = None,
    heads: o.Heads = None,
    pooling: o.Pooling = None,
    mean: o.Mean = None,
    std: o.Std = None,
    head: o.Head = None,
    allow_partial: o.AllowPartial = False,
    name: o.Name = None,
    backend: o.Backend = None,
    constants: o.Constants = None,
    corruption_root: o.CorruptionRoot = None,
    cluster: o.Cluster = None,
    gpus_per_task: o.GpusPerTask = None,
) -> None:
    """Measure how robust models are, suite by suite.

    A linear probe is trained once per encoder for all suites; a classifier has its own head. Each
    suite leaves a record of the outcomes of all images. What is up to date is skipped.

    Examples:

      coss-bench eval runs/byol runs/co-byol --suite clean,corruption --limit 1000

      coss-bench eval timm:resnet18:a1_in1k --dataset imagenet --precision auto
    """
    from robustbench_coss.cli.measure import measure_all
    from robustbench_coss.evaluations.probes.linear import ProbeConfig
    from robustbench_coss.evaluations.running.request import Evaluation
    from robustbench_coss.evaluations.running.runner import suite_names
    from robustbench_coss.models.load import load_model

    counts = {"--limit": limit, "--batch-size": batch_size, "--workers": workers}
    at_least_one(counts | {"--probe-train": probe_train})
    not_the_root("--results", results)
    possible_size("--size", size)
    suites = suite or ["all"]
    corruption = {"backend": backend, "constants": constants, "root": corruption_root}
    what: dict[str, Any] = {"dataset": dataset, "transfer": transfer, "results": results}
    what |= {"limit": limit, "image_list": image_list, "skip_bad_images": skip_bad_images}
    what |= {"batch_size": batch_size, "device": device, "precision": precision, "seed": seed}
    what |= {"compile": compiled, "workers": workers, "data_root": data_root}
    request = Evaluation(
        suites,
        download=download,
        force=force,
        probe=ProbeConfig(kind=probe, max_train=probe_train),
        options=suite_options(settings or [], suite_names(suites), corruption),
        **what,
    )
    _for_one(models, {"--name": name, "--head": head})
    said: dict[str, Any] = {"format": form, "arch": arch, "allow_partial": allow_partial}
    said |= {"weights": weights, "stem": stem, "heads": heads, "pooling": pooling}
    said |= {"mean": colour("--mean", mean), "std": colour("--std", std), "head": head}
    read = partial(load_model, size=size, dataset=dataset, name=name, **said)
    measure_all(models, read, request, cluster, gpus_per_task)


def _for_one(models: list[str], options: dict[str, Any]) -> None:
    """Refuse what is said of one model where several are to be measured."""
    for option, value in options.items():
        if value is not None and len(models) > 1:
            raise CossError(f"{option} is for one model, and {len(models)} are to be measured")
