"""What is typed is what is done: every option of `eval` and `pretrain` reaches what acts on it.

The tables name every option; one that is added without a line here fails.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.bench import Bench
from typer.main import get_command

from robustbench_coss.cli import app
from robustbench_coss.evaluations.probes.linear import ProbeConfig
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.records.record import Record, find_records

pytestmark = pytest.mark.usefixtures("few_pictures")
DONE_HERE = {"--help"}

# Option -> (its value, where it arrives, what is there).
EVAL: dict[str, tuple[str | None, str, Any]] = {
    "--suite": ("crop", "suites", ("crop",)),
    "--results": ("elsewhere", "results", Path("elsewhere")),
    "--limit": ("17", "limit", 17),
    "--image-list": ("some.txt", "image_list", Path("some.txt")),
    "--dataset": ("parts:0.5", "dataset", "parts:0.5"),
    "--transfer": (None, "transfer", True),
    "--batch-size": ("33", "batch_size", 33),
    "--device": ("cpu", "device", "cpu"),
    "--precision": ("bf16", "precision", "bf16"),
    "--compile": (None, "compile", True),
    "--workers": ("3", "workers", 3),
    "--skip-bad-images": (None, "skip_bad_images", True),
    "--seed": ("8", "seed", 8),
    "--data-root": ("somewhere", "data_root", Path("somewhere")),
    "--download": (None, "download", True),
    "--force": (None, "force", True),
    "--probe": ("sgd", "probe", ProbeConfig(kind="sgd")),
    "--probe-train": ("90", "probe", ProbeConfig(max_train=90)),
    "--set": ("crop.areas=[0.3]", "options", {"crop": {"areas": [0.3]}}),
    "--backend": ("reference", "options", {"corruption": {"backend": "reference"}}),
    "--constants": ("cifar-c", "options", {"corruption": {"constants": "cifar-c"}}),
    "--corruption-root": ("made", "options", {"corruption": {"root": Path("made")}}),
    "--format": ("dino", "read format", "dino"),
    "--arch": ("resnet18", "read arch", "resnet18"),
    "--size": ("48", "read size", 48),
    "--weights": ("model:net.", "read weights", "model:net."),
    "--stem": ("pool=none", "read stem", "pool=none"),
    "--heads": ("12", "read heads", 12),
    "--pooling": ("mean", "read pooling", "mean"),
    "--mean": ("0.5,0.4,0.3", "read mean", (0.5, 0.4, 0.3)),
    "--std": ("0.2,0.2,0.1", "read std", (0.2, 0.2, 0.1)),
    "--head": ("head.pth", "read head", Path("head.pth")),
    "--allow-partial": (None, "read allow_partial", True),
    "--name": ("mine", "read name", "mine"),
    "--cluster": ("auto", "cluster", "auto"),
    "--gpus-per-task": ("0.5", "gpus_per_task", 0.5),
}

PRETRAIN: dict[str, tuple[str | None, str, Any]] = {
    "--method": ("co-dino", "method", "co-dino"),
    "--arch": ("rf9_resnet18", "arch", "rf9_resnet18"),
    "--dataset": ("parts:0.5", "dataset", "parts:0.5"),
    "--epochs": ("7", "epochs", 7),
    "--batch-size": ("48", "batch_size", 48),
    "--width": ("0.25", "width", 0.25),
    "--image-size": ("48", "size", 48),
    "--limit": ("480", "limit", 480),
    "--seed": ("9", "seed", 9),
    "--precision": ("bf16", "precision", "bf16"),
    "--set": ("optimizer.lr=0.125", "optimizer.lr", 0.125),
    "--device": ("cpu", "how device", "cpu"),
    "--data-root": ("somewhere", "how data_root", Path("somewhere")),
    "--download": (None, "how download", True),
    "--compile": (None, "how compiled", True),
    "--skip-bad-images": (None, "how skip_bad_images", True),
    "--logger": ("csv", "how logger", "csv"),
    "--out": ("runs/here", "out", Path("runs/here")),
}
ELSEWHERE = {"--recipe", "--resume", "--dry-run"}  # what they do is tested with the recipes


def options_of(command: str) -> set[str]:
    found = get_command(app).commands[command].params  # type: ignore[attr-defined]
    return {p.opts[0] for p in found if p.opts[0].startswith("--")} - DONE_HERE


def words(option: str, table: dict[str, tuple[str | None, str, Any]]) -> list[str]:
    value = table[option][0]
    return [option] if value is None else [option, value]


def test_the_tables_name_every_option() -> None:
    assert options_of("eval") == EVAL.keys()
    assert options_of("pretrain") == PRETRAIN.keys() | ELSEWHERE


@pytest.mark.parametrize("option", EVAL)
def test_an_option_of_eval_reaches_the_request(
    option: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        "robustbench_coss.cli.measure.measure_all", lambda *given: seen.append(given)
    )
    assert bench("eval", "a-model", *words(option, EVAL)).code == 0
    ((models, read, request, cluster, gpus_per_task),) = seen
    assert models == ["a-model"]
    assert isinstance(request, Evaluation)
    assert isinstance(read, partial)
    _, where, wanted = EVAL[option]
    found = vars(request) | {"cluster": cluster, "gpus_per_task": gpus_per_task}
    found |= {f"read {key}": value for key, value in read.keywords.items()}
    assert found[where] == wanted
    assert found["read dataset"] == found["dataset"]
    plain = vars(Evaluation(found["suites"])) | {where: wanted}
    assert vars(request) == {key: plain[key] for key in vars(request)}  # nothing else moved


@pytest.mark.parametrize("option", PRETRAIN)
def test_an_option_of_pretrain_reaches_the_training(
    option: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, ...]] = []

    def stop(recipe: Any, out: Path, **how: Any) -> None:
        seen.append((recipe, out, how))
        raise KeyboardInterrupt

    monkeypatch.setattr("robustbench_coss.pretrain.train.pretrain", stop)
    start = ["--recipe", "quickstart"]
    assert bench("pretrain", *start, *words(option, PRETRAIN)).code == 130
    ((recipe, out, how),) = seen
    _, where, wanted = PRETRAIN[option]
    found = {f"how {key}": value for key, value in how.items()} | vars(recipe) | {"out": out}
    found |= {f"optimizer.{key}": value for key, value in vars(recipe.optimizer).items()}
    assert found[where] == wanted


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plain")


def measure(bench: Bench, results: Path, *more: object) -> dict[str, Record]:
    """Records by suite of the smallest evaluation that draws at random."""
    model = "control:untrained:rf29_resnet18:0.0625"
    small = ["--dataset", "parts", "--limit", 24, "--probe-train", 120, "--device", "cpu"]
    suites = ["--suite", "occlusion,crop", "--results", results]
    outcome = bench("eval", model, *small, *suites, *more)
    assert outcome.code == 0, outcome.err
    return {record.suite: record for _, record in find_records(results)}


def columns(record: Record) -> np.ndarray:
    return np.concatenate([np.concatenate(list(c.outcomes.values())) for c in record.cells])


@pytest.mark.slow
def test_the_seed_of_eval_draws_other_masks_and_crops(
    bench: Bench, tmp_path: Path, plain: Path
) -> None:
    first, other = measure(bench, plain), measure(bench, tmp_path, "--seed", 3)
    for suite in ("occlusion", "crop"):
        assert (first[suite].seed, other[suite].seed) == (0, 3)
        assert first[suite].index.tolist() == other[suite].index.tolist()
        assert not np.array_equal(columns(first[suite]), columns(other[suite]))
        # What draws nothing stays: the undisturbed images under the same classifier.
        clean = [r[suite].column(r[suite].cells[0].condition, "correct") for r in (first, other)]
        assert np.array_equal(*clean)


def test_records_state_what_was_asked_for(bench: Bench, tmp_path: Path) -> None:
    asked = ["--limit", 18, "--seed", 4, "--probe", "sgd", "--size", 40]
    found = measure(bench, tmp_path, *asked, "--set", "crop.areas=[0.5]")["crop"]
    assert found.seed == 4
    assert found.index.size == 18
    assert found.dataset["size"] == 40
    assert found.model["probe"]["settings"]["kind"] == "sgd"
    assert found.model["probe"]["n_train"] == 120
    assert {c.level for c in found.cells if c.group} == {0.5}


def test_a_dry_run_prints_the_recipe_that_was_asked_for(bench: Bench) -> None:
    asked = ["--method", "simclr", "--epochs", 3, "--seed", 5, "--set", "views.min_crop=0.25"]
    printed = yaml.safe_load(bench("pretrain", "--recipe", "quickstart", *asked, "--dry-run").out)
    assert printed["method"] == "simclr"
    assert (printed["epochs"], printed["seed"]) == (3, 5)
    assert printed["views"]["min_crop"] == 0.25
