"""The request "measure this so": one frozen object that the command line and Python make alike.

It is passed whole to the runner, to workers and to verification. What is measured comes beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

from robustbench_coss.datasets.base import dataset_source
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes.linear import ProbeConfig, check_count
from robustbench_coss.models.checkpoint import Checkpoint

Load = Callable[[], Checkpoint]
PRECISIONS = ("32", "tf32", "bf16", "fp16", "auto")


@dataclass(frozen=True)
class Evaluation:
    """How models are measured. Picklable, so workers get it as it is.

    Attributes:
        suites: registered names, or several in one string separated by commas; "all" for every one.
        dataset: registered name; None for the data set that the encoder was pretrained on. Another
            one is refused unless `transfer`.
        transfer: train a probe on `dataset` and measure there, also in place of a classifier.
        results: folder of records and probes.
        limit: measure so many test images: the first ones of a fixed random order, so that the
            images of a smaller limit are among those of a larger one. None measures all.
        image_list: file that names the test images to measure (`datasets.image_list`), of which
            `limit` takes some; None measures all.
        batch_size: images measured at once; does not change outcomes beyond rounding.
        device: "auto", "cpu" or "cuda".
        precision: what the model multiplies in: "32", "bf16" or "fp16" (with weights in 32 bit),
            "tf32" (32 bit, which a GPU may round to TF32), or "auto": fp16 where the device has it
            and the model is faster in it. Suites that take gradients stay in 32 bit; see there.
        compile: compile the model (torch.compile); where that fails, it is measured as it is.
        skip_bad_images: leave out pictures that cannot be read instead of stopping at the first;
            they are counted in the record, and its numbers are marked.
        workers: threads that decode pictures; None for one per core.
        seed: of the suites' draws.
        data_root: folder of the data sets.
        download: fetch a missing data set if it can be fetched.
        force: measure again what is up to date, with a probe trained anew. A partial record of the
            same key is continued all the same, so that an interrupted forced evaluation is not lost
            either.
        probe: how the linear classifier is trained.
        options: keyword arguments of suites, by the suite's name.

    Raises:
        CossError: a count is below one, or the precision unknown.
    """

    suites: Sequence[str] = ("all",)
    dataset: str | None = None
    transfer: bool = False
    results: Path | str = Path("results")
    limit: int | None = None
    image_list: Path | str | None = None
    batch_size: int = 256
    device: str = "auto"
    precision: str = "32"
    compile: bool = False
    workers: int | None = None
    skip_bad_images: bool = False
    seed: int = 0
    data_root: Path | str = Path("data")
    download: bool = False
    force: bool = False
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        suites = [self.suites] if isinstance(self.suites, str) else self.suites
        object.__setattr__(self, "suites", tuple(suites))
        for name in ("results", "data_root"):
            object.__setattr__(self, name, Path(getattr(self, name)))
        if self.image_list is not None:
            object.__setattr__(self, "image_list", Path(self.image_list))
        for name in ("limit", "batch_size", "workers"):
            value = getattr(self, name)
            if value is None and name != "batch_size":
                continue
            check_count(name, value)
            if value >= 1 << 31:
                raise CossError(f"{name} must be below 2^31, got {value}")
        if self.precision not in PRECISIONS:
            raise CossError(f"unknown precision {self.precision!r}; known: {', '.join(PRECISIONS)}")
        seed: Any = self.seed
        if not (isinstance(seed, Integral) and 0 <= int(seed) < 1 << 63):
            raise CossError(f"seed must be at least 0 and below 2^63, got {seed!r}")


class Once:
    """Loads a model when first called, and once more in each process that it travels to."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.found: Checkpoint | None = None

    def __call__(self) -> Checkpoint:
        if self.found is None:
            self.found = self.load()
        return self.found

    def __repr__(self) -> str:
        return f"Once({self.load!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Once, (self.load,)


def choose_dataset(checkpoint: Checkpoint, dataset: str | None, transfer: bool) -> str:
    """The data set to measure on: the one the model was trained on, or another on purpose.

    Raises:
        CossError: another one is asked for without `transfer`, it is not registered, or none is
            known.
    """
    trained_on = checkpoint.metadata.get("dataset")
    if dataset is None:
        if trained_on is None:
            raise CossError(
                f"{checkpoint.name} does not say what it was trained on; "
                "name a data set with --dataset NAME"
            )
        return str(trained_on)
    dataset_source(dataset)  # a misspelt name is not a wish to transfer
    if trained_on is not None and dataset != trained_on and not transfer:
        raise CossError(
            f"{checkpoint.name} was pretrained on {trained_on!r}, not {dataset!r}; add --transfer "
            f"to train a probe on {dataset!r} and measure there"
        )
    return dataset
