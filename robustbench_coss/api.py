"""The front door for Python: what `coss-bench eval` does, on any model, cell by cell.

Like the command line, this module sits above `evaluations`; `import robustbench_coss` alone does
not load it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from torch import nn

from robustbench_coss.datasets.base import dataset_source, open_dataset
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.progress import Progress
from robustbench_coss.evaluations.running.draft import Finished
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_stream
from robustbench_coss.models.checkpoint import Checkpoint
from robustbench_coss.models.load import load_model, wrap_module

Channels = tuple[float, float, float]


def evaluate(
    model: nn.Module | Checkpoint | Path | str,
    request: Evaluation | None = None,
    *,
    name: str | None = None,
    size: int | None = None,
    mean: Channels | None = None,
    std: Channels | None = None,
    output: Literal["auto", "features", "logits"] = "auto",
    progress: Progress | None = None,
) -> Iterator[Finished]:
    """Measure a model with suites; each condition is given as soon as it is measured and on disk.

    Stop when you have seen enough: the next call continues there. Conditions that are on disk
    already come at once.

        for done in evaluate(my_model, Evaluation("corruption", dataset="cifar10", limit=1000)):
            print(done.cell.condition, done.cell.outcomes["correct"].mean())

    Args:
        model: any module that maps images [B, 3, S, S] to features [B, D] or logits [B, K], or
            whatever `coss-bench eval` takes.
        request: what is measured and how; None is every suite with its defaults. It names the
            data set, unless the model says what it was trained on.
        name: of a module, in records and tables; its class's name by default.
        size: S in px; the data set's default for a module, else what the model was made for.
        mean, std: per-channel normalisation that a module expects done to pixels in [0, 1]; None
            gives it the pixels as they are.
        output: what a module returns; "auto" takes K outputs for logits if the data set has K
            classes, and anything else for features, which get a linear probe.

    Raises:
        CossError: with what is wrong and what to do.
    """
    request = request or Evaluation()
    if isinstance(model, nn.Module):
        checkpoint = _wrapped(model, request, name, size, mean, std, output)
    elif isinstance(model, Checkpoint):
        checkpoint = model
    else:
        checkpoint = load_model(model, size=size, dataset=request.dataset)
    return evaluate_stream(lambda: checkpoint, request, progress)


def _wrapped(
    model: nn.Module,
    request: Evaluation,
    name: str | None,
    size: int | None,
    mean: Channels | None,
    std: Channels | None,
    output: Literal["auto", "features", "logits"],
) -> Checkpoint:
    """A module as a model that says what it is."""
    if request.dataset is None:
        raise CossError(
            "a module does not say what to measure it on; pass Evaluation(dataset=NAME)"
        )
    source = dataset_source(request.dataset)
    side = source.default_size if size is None else size
    root = Path(request.data_root)
    test = open_dataset(request.dataset, "test", size=side, root=root, download=request.download)
    return wrap_module(
        model,
        name=name or type(model).__name__,
        size=side,
        mean=mean,
        std=std,
        output=output,
        classes=len(test.classes),
    )
