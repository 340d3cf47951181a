from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from typer.testing import CliRunner

from robustbench_coss.cli import app
from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes.linear import ProbeConfig
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.models.load import load_model
from robustbench_coss.records.record import find_records

TRAIN = 300

pytestmark = pytest.mark.usefixtures("few_pictures")


def first_of(role: str, count: int) -> tuple[Tensor, Tensor]:
    """The probe's images of a role of `parts`: pixels [N, 3 · 32 · 32] and labels."""
    from robustbench_coss.seeds import permutation

    images = open_dataset("parts", role, size=32)
    chosen = permutation(len(images), "probe subset", role, 0)[:count].sort().values
    return images.images(chosen.tolist()).float().flatten(1) / 255, images.labels[chosen]


def test_pixels_are_as_accurate_as_scikit_learn_s_regression_on_them(tmp_path: Path) -> None:
    def load():  # type: ignore[no-untyped-def]
        return load_model("control:pixels", dataset="parts")

    asked = Evaluation(
        ["clean"],
        dataset="parts",
        results=tmp_path,
        limit=400,
        device="cpu",
        probe=ProbeConfig(max_train=TRAIN, l2_values=6),
    )
    (record,) = evaluate_run(load, asked).values()
    assert record.model["control"] == "pixels"
    (x, y), (held_x, held_y) = first_of("train", TRAIN), first_of("validation", TRAIN)
    both, labels = torch.cat([x, held_x]).double(), torch.cat([y, held_y])
    mean, std = both.mean(dim=0), both.std(dim=0, correction=0)
    std = torch.where(std > 1e-9, std, 1.0)
    reference = LogisticRegression(C=1 / record.model["probe"]["l2"], tol=1e-8, max_iter=5000)
    reference.fit(((both - mean) / std).numpy(), labels.numpy())
    test = open_dataset("parts", "test", size=32).images(record.index.tolist())
    z = (test.double().flatten(1) / 255 - mean) / std
    expected = reference.score(z.numpy(), record.label)
    found = float(record.cells[0].outcomes["correct"].mean())
    assert found == pytest.approx(expected, abs=0.005)


def test_pixels_refuse_suites_of_local_representations_and_keep_the_others(tmp_path: Path) -> None:
    for suite in ("occlusion", "redundancy", "rf"):
        asked = Evaluation(
            [suite, "clean"],
            dataset="parts",
            results=tmp_path,
            limit=20,
            device="cpu",
            probe=ProbeConfig(max_train=60, l2_values=2),
        )
        with pytest.raises(CossError, match=f"no local representations.*'{suite}'.*--suite clean"):
            evaluate_run(lambda: load_model("control:pixels", dataset="parts"), asked)
    assert {record.suite for _, record in find_records(tmp_path)} == {"clean"}


def test_controls_are_measured_by_all_suites_that_say_something_of_them(tmp_path: Path) -> None:
    models = ["control:pixels"] + [f"control:untrained:rf29_resnet18:0.125:{s}" for s in (0, 1)]
    words = ["eval", *models, "--dataset", "parts", "--results", str(tmp_path), "--limit", "8"]
    words += ["--probe-train", "60", "--device", "cpu", "--set", "adversarial.attacks=[fgsm]"]
    words += ["--set", "adversarial.eps=[1]", "--set", "occlusion.ratios=[0.5]"]
    words += ["--suite", "all"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "pixels: left out occlusion, redundancy, rf" in result.output
    measured: dict[str, set[str]] = {}
    for _, record in find_records(tmp_path):
        seed = record.model["training"].get("seed", "")
        measured.setdefault(f"{record.model['control']}{seed}", set()).add(record.suite)
    everything = {"clean", "corruption", "occlusion", "adversarial", "crop", "redundancy", "rf"}
    assert measured == {
        "pixels": everything - {"occlusion", "redundancy", "rf"},
        "untrained0": everything,
        "untrained1": everything,
    }
