"""Models of one name stay apart, and one model stays one, in every table, file and command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import simulate
from helpers.bench import Bench
from torch import Tensor, nn
from torchvision import models as tv

import robustbench_coss
from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.analysis.labels import configurations_of
from robustbench_coss.analysis.numbers import load_table
from robustbench_coss.analysis.selection import find_model
from robustbench_coss.errors import CossError
from robustbench_coss.files import sha256_of
from robustbench_coss.records.record import Record, find_records
from robustbench_coss.tables.written import write_leaderboard


def foreign(share: float, name: str, weights: str, file: str = "", **more: Any) -> Record:
    """A record of a model that only its weights identify."""
    made = simulate.clean(share, name=name)
    made.model |= {"method": None, "arch": "net", "training": {}, "dataset": None} | more
    made.model["checkpoint_sha256"] = sha256_of(weights)
    made.model["probe"]["checkpoint_sha256"] = sha256_of(weights)
    if file:
        made.model["file"] = file
    return made


def rows(results: Path) -> dict[str, tuple[float, int]]:
    """Row of the leaderboard to clean top-1 and seeds."""
    table = load_table(results)
    table = table[table["metric"] == "clean_top1"]
    pairs = zip(table["value"], table["seeds"], strict=True)
    return dict(zip(table["model"], pairs, strict=True))


A, B = "x/a/checkpoint.pth", "x/b/checkpoint.pth"


def test_files_of_one_name_are_told_apart_by_the_shortest_ends_of_their_paths(
    tmp_path: Path,
) -> None:
    simulate.save(
        tmp_path,
        foreign(1.0, "checkpoint", "one", A),
        foreign(0.0, "checkpoint", "two", B),
        foreign(0.5, "last", "three", "x/a/last.ckpt"),
    )
    assert rows(tmp_path) == {
        "checkpoint (a/checkpoint.pth)": (1.0, 1),
        "checkpoint (b/checkpoint.pth)": (0.0, 1),
        "last": (0.5, 1),
    }


def test_lightnings_versions_are_told_apart_by_the_folder_that_differs(tmp_path: Path) -> None:
    for number in (0, 1):
        path = f"logs/version_{number}/checkpoints/last.ckpt"
        simulate.save(tmp_path, foreign(number, "last", str(number), path))
    assert rows(tmp_path) == {
        "last (version_0/checkpoints/last.ckpt)": (0.0, 1),
        "last (version_1/checkpoints/last.ckpt)": (1.0, 1),
    }


def test_where_no_path_tells_them_apart_the_hash_does(tmp_path: Path) -> None:
    for weights, file in (("one", A), ("two", A), ("three", B)):
        simulate.save(tmp_path, foreign(0.5, "checkpoint", weights, file))
    simulate.save(tmp_path, foreign(0.1, "Net", "four"), foreign(0.9, "Net", "five"))
    assert set(rows(tmp_path)) == {
        *(f"checkpoint ({sha256_of(weights)[:8]})" for weights in ("one", "two", "three")),
        *(f"Net ({sha256_of(weights)[:8]})" for weights in ("four", "five")),
    }


def test_two_files_of_one_method_and_architecture_are_two_rows(tmp_path: Path) -> None:
    """As every user of DINO has: `checkpoint.pth` in several folders."""
    for weights, file in (("one", A), ("two", B)):
        simulate.save(tmp_path, foreign(0.5, "checkpoint", weights, file, method="dino"))
    width = "×0.25"
    assert set(rows(tmp_path)) == {
        f"DINO · net {width} (a/checkpoint.pth)",
        f"DINO · net {width} (b/checkpoint.pth)",
    }


def test_the_same_weights_under_two_names_are_one_model_and_the_latest_counts(
    tmp_path: Path,
) -> None:
    early, late = foreign(0.2, "early", "one", A), foreign(0.7, "late", "one", B)
    late.created = "2026-05-05T00:00:00Z"
    simulate.save(tmp_path, early, late)
    ((value, seeds),) = rows(tmp_path).values()
    assert (value, seeds) == (0.7, 1)
    (found,) = find_model(load_measurements(tmp_path), sha256_of("one")[:8]).measurements
    assert len(found.records) == 1


def test_seeds_of_one_recipe_stay_seeds_of_one_row(tmp_path: Path) -> None:
    simulate.save(tmp_path, *(simulate.clean(0.5, seed=seed) for seed in range(3)))
    assert rows(tmp_path) == {"BYOL · rf29_resnet18 ×0.25": (0.5, 3)}


def test_a_name_means_the_same_model_on_every_data_set(tmp_path: Path) -> None:
    """Else a comparison by that name would take one model here and another one there."""
    one, two = foreign(1.0, "checkpoint", "one", A), foreign(0.0, "checkpoint", "two", B)
    other = simulate.clean(0.0, dataset="mnist", name="checkpoint")
    two.dataset = other.dataset
    simulate.save(tmp_path, one, two)
    labels = {m.label: m.test_set.label for m in load_measurements(tmp_path)}
    assert labels == {
        "checkpoint (a/checkpoint.pth)": "parts, 32 px",
        "checkpoint (b/checkpoint.pth)": "mnist, 32 px",
    }
    with pytest.raises(CossError, match="'checkpoint' names several models"):
        find_model(load_measurements(tmp_path), "checkpoint")


@pytest.mark.parametrize(
    "name",
    [
        "checkpoint (a/checkpoint.pth)",
        "a/checkpoint.pth",
        "/home/me/x/a/checkpoint.pth",
        sha256_of("one")[:6],
        sha256_of("one"),
        f"checkpoint-{sha256_of('one')[:8]}",
    ],
)
def test_a_model_is_found_by_label_path_hash_or_folder(name: str, tmp_path: Path) -> None:
    simulate.save(tmp_path, foreign(1.0, "checkpoint", "one", A))
    simulate.save(tmp_path, foreign(0.0, "checkpoint", "two", B))
    found = find_model(load_measurements(tmp_path), name)
    assert found.label == "checkpoint (a/checkpoint.pth)"
    ((record,),) = [m.records for m in found.measurements]
    assert record.model["checkpoint_sha256"] == sha256_of("one")


def test_every_command_keeps_them_apart(tmp_path: Path, bench: Bench) -> None:
    simulate.save(tmp_path, foreign(0.9, "checkpoint", "one", A))
    simulate.save(tmp_path, foreign(0.2, "checkpoint", "two", B))
    labels = ["checkpoint (a/checkpoint.pth)", "checkpoint (b/checkpoint.pth)"]
    write_leaderboard(tmp_path)
    for ending in ("md", "csv", "tex"):
        text = (tmp_path / f"leaderboard.{ending}").read_text().replace("\\_", "_")
        assert all(label in text for label in labels), ending
    hashes = [sha256_of(weights)[:10] for weights in ("one", "two")]
    done = bench("compare", *hashes, "--results", tmp_path)
    assert done.code == 0, done.err
    assert all(label in " ".join(done.out.split()) for label in labels)
    assert "+70.0" in done.out
    assert bench("plot", "--results", tmp_path).code == 0
    tables = [path.read_text() for path in (tmp_path / "figures").rglob("*.csv")]
    assert tables
    assert all(label in table for table in tables for label in labels)
    done = bench("report", *hashes, "--results", tmp_path, "--out", tmp_path / "report.html")
    assert done.code == 0, done.err
    assert bench("site", "--results", tmp_path, "--out", tmp_path / "site").code == 0
    for page in (tmp_path / "report.html", tmp_path / "site" / "index.html"):
        assert all(label in page.read_text() for label in labels), page


# ---- from the model to the row ----


class Oracle(nn.Module):
    """Logits of 10 classes, each an equal share of all grey levels: no tensor tells two apart."""

    def __init__(self, flipped: bool) -> None:
        super().__init__()
        self.flipped = flipped

    def forward(self, x: Tensor) -> Tensor:
        grey = x.mean(dim=(1, 2, 3))[:, None]
        logits = -(grey - torch.linspace(0, 1, 10)).abs()
        return -logits if self.flipped else logits


@pytest.fixture
def few_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from robustbench_coss.datasets import parts

    for role, count in {"train": 40, "validation": 20, "test": 30}.items():
        monkeypatch.setitem(parts.COUNTS, role, count)


@pytest.mark.slow
@pytest.mark.usefixtures("few_parts")
def test_two_modules_of_one_class_and_two_files_of_one_name_are_four_rows(
    tmp_path: Path, bench: Bench
) -> None:
    request = robustbench_coss.Evaluation("clean", dataset="parts", results=tmp_path, device="cpu")
    measured = {}
    for flipped in (False, True):
        (done,) = robustbench_coss.evaluate(Oracle(flipped), request)
        measured[done.so_far.model["checkpoint_sha256"]] = done.cell.outcomes["correct"].mean()
    options = ["--size", 32, "--dataset", "parts", "--suite", "clean", "--results", tmp_path]
    for seed, folder in enumerate("ab"):
        torch.manual_seed(seed)
        (tmp_path / folder).mkdir()
        torch.save(tv.resnet18(num_classes=10).state_dict(), tmp_path / folder / "checkpoint.pth")
        done = bench("eval", tmp_path / folder / "checkpoint.pth", *options)
        assert done.code == 0, done.err
    found = {r.model["checkpoint_sha256"]: r for _, r in find_records(tmp_path)}
    assert len(found) == 4
    labels = set(rows(tmp_path))
    assert {"checkpoint (a/checkpoint.pth)", "checkpoint (b/checkpoint.pth)"} < labels
    assert {f"Oracle ({sha256[:8]})" for sha256 in measured} < labels
    for sha256, share in measured.items():
        assert rows(tmp_path)[f"Oracle ({sha256[:8]})"][0] == pytest.approx(share)
    assert np.ptp(list(measured.values())) > 0
    done = bench("eval", tmp_path / "a" / "checkpoint.pth", *options, "--name", "mine")
    assert done.code == 0, done.err
    assert "mine" in rows(tmp_path)
    assert len(rows(tmp_path)) == 4  # the same weights by another name


def test_a_name_is_for_one_model(bench: Bench) -> None:
    done = bench("eval", "control:pixels", "control:pixels", "--name", "x", "--dataset", "parts")
    assert done.code == 1
    assert "--name is for one model, and 2 are to be measured" in done.err


def test_the_same_name_for_other_settings_of_the_probe_says_these_too() -> None:
    models = [
        foreign(0.5, "checkpoint", weights, file).model
        for weights, file in (("one", A), ("two", B), ("two", B))
    ]
    models[2] = models[2] | {"probe": models[2]["probe"] | {"n_train": 7}}
    labels = sorted(c.label for c in configurations_of(models).values())
    assert labels == [
        "checkpoint (a/checkpoint.pth)",
        "checkpoint (b/checkpoint.pth, n_train=5000)",
        "checkpoint (b/checkpoint.pth, n_train=7)",
    ]
