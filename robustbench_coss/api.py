"""The front door for Python: what `coss-bench eval` does, on any model, cell by cell.

Like the command line, this module sits above `evaluations`; `import robustbench_coss` alone does
not load it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from robustbench_coss import registry
from robustbench_coss.datasets.base import Source, open_dataset
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes.linear import ProbeConfig
from robustbench_coss.evaluations.progress import Progress
from robustbench_coss.evaluations.running.runner import Finished, evaluate_stream
from robustbench_coss.models.checkpoint import Checkpoint
from robustbench_coss.models.load import load_model, wrap_module


def evaluate(
    model: nn.Module | Checkpoint | Path | str,
    suites: str | Sequence[str] = "all",
    *,
    dataset: str | None = None,
    name: str | None = None,
    size: int | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    output: Literal["auto", "features", "logits"] = "auto",
    results: Path | str = "results",
    limit: int | None = None,
    batch_size: int = 256,
    device: str = "auto",
    seed: int = 0,
    data_root: Path | str = "data",
    download: bool = False,
    force: bool = False,
    probe: ProbeConfig | None = None,
    transfer: bool = False,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Progress | None = None,
) -> Iterator[Finished]:
    """Measure a model with suites; each condition is given as soon as it is measured and on disk.

    Stop when you have seen enough: the next call continues there. Conditions that are on disk
    already come at once.

        for done in evaluate(my_model, "corruption", dataset="cifar10", limit=1000):
            print(done.cell.condition, done.cell.outcomes["correct"].mean())

    Args:
        model: any module that maps images [B, 3, S, S] to features [B, D] or logits [B, K], or
            whatever `coss-bench eval` takes.
        suites: registered names; "all" for every one.
        dataset: registered name; needed unless the model says what it was trained on.
        name: of a module, in records and tables; its class's name by default.
        size: S in px; the data set's default for a module, else what the model was made for.
        mean, std: per-channel normalisation that a module expects done to pixels in [0, 1]; None
            gives it the pixels as they are.
        output: what a module returns; "auto" takes K outputs for logits if the data set has K
            classes, and anything else for features, which get a linear probe.
        results: folder for records and probes.
        options: keyword arguments of suites, by the suite's name.
        limit, batch_size, device, seed, data_root, download, force, probe, transfer: as
            `robustbench_coss.evaluations.running.runner.evaluate_stream`.

    Raises:
        CossError: with what is wrong and what to do.
    """
    data_root = Path(data_root)
    if isinstance(model, nn.Module):
        if dataset is None:
            raise CossError("a module does not say what to measure it on; pass dataset=NAME")
        source: Source = registry.load("dataset", dataset)
        side = source.default_size if size is None else size
        test = open_dataset(dataset, "test", size=side, root=data_root, download=download)
        checkpoint = wrap_module(
            model,
            name=name or type(model).__name__,
            size=side,
            mean=mean,
            std=std,
            output=output,
            classes=len(test.classes),
        )
    elif isinstance(model, Checkpoint):
        checkpoint = model
    else:
        checkpoint = load_model(model, size=size, dataset=dataset)
    return evaluate_stream(
        lambda: checkpoint,
        [suites] if isinstance(suites, str) else suites,
        dataset=dataset,
        results=Path(results),
        limit=limit,
        batch_size=batch_size,
        device=device,
        seed=seed,
        data_root=data_root,
        download=download,
        force=force,
        probe=probe,
        transfer=transfer,
        options=options,
        progress=progress,
    )
