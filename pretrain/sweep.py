"""Sweeps: grids over a recipe, each point of which is one pretraining run.

A sweep is only a list of runs: what each run is and whether it is finished is read from its run
folder, so a sweep keeps no state of its own and can be stopped and started again at any time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustbench_coss import registry
from robustbench_coss.datasets.base import dataset_source, missing_data
from robustbench_coss.errors import CossError
from robustbench_coss.files import canonical_json, slug
from robustbench_coss.pretrain.recipe import (
    Recipe,
    build_recipe,
    differing_keys,
    explain_validation,
    merge,
    nested,
    read_recipe,
)
from robustbench_coss.pretrain.shipped import SWEEPS, shipped_sweeps
from robustbench_coss.reading import MOST_YAML, parse_yaml, read_bytes

Values = Annotated[list[Any], Field(min_length=1)]
Grid = Annotated[dict[str, Values], Field(min_length=1)]

State = Literal["finished", "interrupted", "new"]


class Sweep(BaseModel):
    """Grids of recipe keys.

    Attributes:
        recipe: file, or name of a shipped recipe, that all runs start from; None for the defaults.
        base: recipe values laid over it in all runs.
        out: folder of the run folders; None for `runs/` and the sweep's name.
        grid: dotted recipe key -> values; one run for every combination.
        also: further grids, for keys that concern some methods only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: str | None = None
    base: dict[str, Any] = {}
    out: str | None = None
    grid: Grid
    also: list[Grid] = []


@dataclass(frozen=True)
class Run:
    """One pretraining run of a sweep and where it goes."""

    recipe: Recipe = field(hash=False)  # its options are a dict, which has no hash
    folder: Path

    @property
    def name(self) -> str:
        """The run folder's name, unique in the sweep."""
        return self.folder.name


def read_sweep(name: str) -> Sweep:
    """A sweep file, or a shipped sweep by name.

    Raises:
        CossError: no such file or name, not YAML, or an unknown key or wrong type in it.
    """
    path, where = Path(name), f"sweep {name}"
    if name in shipped_sweeps():
        text = SWEEPS.joinpath(f"{name}.yaml").read_bytes()
    elif path.suffix in {".yaml", ".yml"} or path.exists():
        text = read_bytes(path, MOST_YAML, "read sweep")
    else:
        raise CossError(
            f"no sweep is named {name!r}; shipped are {', '.join(shipped_sweeps())}. "
            "Or pass a file whose name ends in .yaml"
        )
    try:
        values = parse_yaml(text)
    except ValueError as error:
        raise CossError(f"{where} is not valid YAML ({error})") from error
    if not isinstance(values, dict):
        raise CossError(
            f"{where} must be a mapping with the key `grid`, such as `grid: {{seed: [0]}}`"
        )
    try:
        return Sweep.model_validate(values)
    except ValidationError as error:
        raise explain_validation(error, where, Sweep) from error


def plan(sweep: Sweep, out: Path) -> list[Run]:
    """The runs of a sweep, in order: the first key of a grid varies slowest.

    A run that two grids give is planned once, under the first name.

    Args:
        sweep: what to vary.
        out: folder of the run folders.

    Raises:
        CossError: a recipe is not valid, names something unknown, or two runs share a name.
    """
    base = merge(read_recipe(sweep.recipe) if sweep.recipe else {}, sweep.base)
    named: dict[str, Recipe] = {}
    for values in itertools.chain.from_iterable(map(_points, [sweep.grid, *sweep.also])):
        changed = base
        for key, value in values.items():
            changed = merge(changed, nested(key, value))
        described = ", ".join(f"{key}={value}" for key, value in values.items())
        recipe = _checked(changed, f"run with {described}")
        name = _name(recipe, values)
        if named.setdefault(name, recipe) != recipe:
            differ = ", ".join(differing_keys(named[name], recipe))
            raise CossError(
                f"two runs of the sweep would be named {name} and differ in {differ}; "
                "vary that key in both grids"
            )
    first: dict[str, Run] = {}
    for name, recipe in named.items():
        first.setdefault(recipe.model_dump_json(), Run(recipe, out / name))
    return list(first.values())


def _points(grid: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of a grid's values."""
    for combination in itertools.product(*grid.values()):
        yield dict(zip(grid, combination, strict=True))


def _checked(values: dict[str, Any], where: str) -> Recipe:
    """A recipe whose names and options are known to be good, long before its turn to run."""
    from robustbench_coss.pretrain.methods.base import parse_options

    recipe = build_recipe(values, where)
    registry.load("encoder", recipe.arch)
    dataset_source(recipe.dataset)
    try:
        parse_options(registry.load("method", recipe.method), recipe.options)
    except CossError as error:
        raise CossError(f"{where}: {error}") from error
    return recipe


def _name(recipe: Recipe, values: dict[str, Any]) -> str:
    """Method first, seed last, between them each other key of the grid with its value."""
    parts = [recipe.method]
    for key, value in values.items():
        if key == "arch":
            parts.append(str(value))
        elif key not in {"method", "seed"}:
            parts.append(key.rpartition(".")[2] + _spelled(value))
    return "-".join(map(slug, [*parts, f"s{recipe.seed}"]))


def _spelled(value: Any) -> str:
    """A value for a name: numbers follow their key directly, words after an underscore."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"_{value if isinstance(value, str) else canonical_json(value)}"
    return repr(value).removesuffix(".0")


def state(run: Run) -> State:
    """Whether a run is finished, can be resumed, or has not been started.

    Raises:
        CossError: the folder holds another run, or something else.
    """
    from robustbench_coss.models.checkpoint import FILE_NAME
    from robustbench_coss.pretrain.run_folder import RECIPE_NAME, changed_keys, is_vacant

    remedy = "move it away, or pass another --out"
    if not (run.folder / RECIPE_NAME).is_file():
        if run.folder.exists() and not (run.folder.is_dir() and is_vacant(run.folder)):
            raise CossError(f"{run.folder} is in the way: it is no run folder; {remedy}")
        return "new"
    if changed := changed_keys(run.recipe, run.folder):
        raise CossError(
            f"{run.folder} holds a run of another recipe: {', '.join(changed)} differ; {remedy}"
        )
    return "finished" if (run.folder / FILE_NAME).is_file() else "interrupted"


def train(run: Run, *, device: str, data_root: Path) -> None:
    """Bring a run to its end: start it, go on from its last checkpoint, or leave it as it is.

    Raises:
        CossError: whatever `pretrain.train.pretrain` cannot do; `Diverged` if training diverged.
    """
    from robustbench_coss.pretrain.train import pretrain

    found = state(run)
    if found != "finished":
        resume = found == "interrupted"
        pretrain(run.recipe, run.folder, device=device, resume=resume, data_root=data_root)


def prepare_data(runs: Iterable[Run], root: Path, download: bool) -> None:
    """See that the data of all runs are there, or fetch them once, before the first one starts.

    Raises:
        CossError: a data set is missing, with what to do about it.
    """
    for name, size in {(run.recipe.dataset, run.recipe.size): None for run in runs}:
        source = dataset_source(name)
        if missing_data(name, root) is not None:
            source.open("train", size or source.default_size, root, download)


def epochs_done(folder: Path) -> int:
    """Epochs of a run that are over, from `metrics.csv`."""
    return len(_metrics(folder))


def results(folder: Path) -> tuple[float | None, float | None]:
    """(kNN accuracy in [0, 1] after the last epoch, seconds of training) from `metrics.csv`.

    The seconds are those of all epochs, whichever attempt they were trained in. None for what the
    file does not hold.
    """
    rows = _metrics(folder)
    knn = rows[-1].get("validation/knn_top1") if rows else None
    seconds = sum(float(row["seconds"]) for row in rows) if rows else None
    return float(knn) if knn else None, seconds


def _metrics(folder: Path) -> list[dict[str, str]]:
    from robustbench_coss.pretrain.monitors import read_metrics
    from robustbench_coss.pretrain.run_folder import METRICS_NAME

    path = folder / METRICS_NAME
    return read_metrics(path) if path.is_file() else []
