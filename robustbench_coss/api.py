"""The front door for Python: what `coss-bench eval` does, on any model, cell by cell.

Like the command line, this module sits above `evaluations`; `import robustbench_coss` alone does
not load it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, Unpack

from torch import nn

from robustbench_coss.datasets.base import dataset_source, open_dataset
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.progress import Progress
from robustbench_coss.evaluations.running.draft import Finished
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_stream
from robustbench_coss.models.checkpoint import Checkpoint
from robustbench_coss.models.load import load_model, wrap_module
from robustbench_coss.models.other_tools.asked import Options, Told

Channels = tuple[float, float, float]


def evaluate(
    model: nn.Module | Checkpoint | Path | str,
    request: Evaluation | None = None,
    *,
    name: str | None = None,
    version: str = "",
    size: int | None = None,
    mean: Channels | None = None,
    std: Channels | None = None,
    output: Literal["auto", "features", "logits"] = "auto",
    progress: Progress | None = None,
    **told: Unpack[Told],
) -> Iterator[Finished]:
    """Measure a model with suites; each condition is given as soon as it is measured and on disk.

    Stop when you have seen enough: the next call continues there. Conditions that are on disk
    already come at once. Of a module that is so only under a `name`: what it computes cannot be
    told for certain from outside, so without one every call measures anew.

        request = Evaluation("corruption", dataset="cifar10", limit=1000)
        for done in evaluate(my_model, request, name="mine"):
            print(done.cell.condition, done.cell.outcomes["correct"].mean())

    A module is measured as it is, in eval mode and without gradients of its own, and is put back
    (training flags, `requires_grad`, device, attributes) whenever a condition is given and when
    measuring ends or fails. Nothing of it is copied.

    Args:
        model: any module that maps images [B, 3, S, S] to features [B, D] or logits [B, K], or
            whatever `coss-bench eval` takes.
        request: what is measured and how; None is every suite with its defaults. It names the
            data set, unless the model says what it was trained on.
        name: of the model, in records and tables; by default a module's class, else that of the
            file or run folder. A module of equal name, version, tensors, plain attributes, code
            and answers to a fixed batch is taken for the one that was measured before.
        version: of a module: raise it where none of these tells two states of it apart.
        size: S in px; the data set's default for a module, else what the model was made for.
        mean, std: per-channel normalisation that a module expects done to pixels in [0, 1]; None
            gives it the pixels as they are. Of a file of another tool, what it was trained with.
        output: what a module returns; "auto" takes K outputs for logits if the data set has K
            classes, and anything else for features, which get a linear probe.
        told: what a file of another tool does not say itself: `format`, `arch`, `weights`, `stem`,
            `heads`, `pooling`, `head`, `allow_partial`, as `coss-bench eval` takes them.

    Raises:
        CossError: with what is wrong and what to do.
    """
    request = request or Evaluation()
    if told and not isinstance(model, (str, Path)):
        raise CossError(f"{', '.join(told)} are of a file; leave them out for a module")
    if isinstance(model, nn.Module):
        classes, side = _measured_on(request, size)
        checkpoint = wrap_module(
            model,
            name=name or type(model).__name__,
            size=side,
            mean=mean,
            std=std,
            output=output,
            classes=classes,
            version=version,
        )
        checkpoint = replace(checkpoint, recognised=name is not None)
    else:
        if not isinstance(model, Checkpoint):
            about: Options = {**told, "mean": mean, "std": std}
            model = load_model(model, size=size, dataset=request.dataset, **about)
        checkpoint = model if name is None else replace(model, name=name)
    return evaluate_stream(lambda: checkpoint, request, progress)


def _measured_on(request: Evaluation, size: int | None) -> tuple[int, int]:
    """Number of classes of the data set, and the image side in px."""
    if request.dataset is None:
        raise CossError(
            "a module does not say what to measure it on; pass Evaluation(dataset=NAME)"
        )
    side = dataset_source(request.dataset).default_size if size is None else size
    root = Path(request.data_root)
    test = open_dataset(request.dataset, "test", size=side, root=root, download=request.download)
    return len(test.classes), side
