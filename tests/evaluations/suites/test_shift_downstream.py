"""Records whose conditions are of different images go through everything that reads records."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.bench import Bench
from helpers.published_sets import publish, put

from robustbench_coss.analysis.comparison import compare
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.evaluations.submissions.submit import submit
from robustbench_coss.evaluations.submissions.verify import Plan, verify
from robustbench_coss.models.checkpoint import build_encoder, save_encoder
from robustbench_coss.records.record import find_records
from robustbench_coss.test_sets.description import describe

CIFAR = list(describe("cifar-10.1").classes)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, two runs and their results: clean images of ten classes, CIFAR-10.1 in five of them."""
    root = tmp_path_factory.mktemp("study")
    for part in ("train", "val"):
        put(root / part, CIFAR, 6)
    publish("cifar-10.1", root)
    for seed in (0, 1):
        torch.manual_seed(seed)
        encoder = build_encoder("rf29_resnet18", size=32, width=1 / 16)
        about = {
            "arch": "rf29_resnet18",
            "width": 1 / 16,
            "size": 32,
            "dataset": "imagefolder",
            "method": ("byol", "co-byol")[seed],
            "encoder": "online",
            "training": {"seed": 0, "epochs": 0},
        }
        save_encoder(root / "runs" / f"run{seed}" / "encoder.safetensors", encoder, about)
        request = Evaluation("clean,shift", data_root=root, results=root / "results")
        evaluate_run(root / "runs" / f"run{seed}", request)
    return root


def test_two_models_are_compared_on_the_images_of_each_set(study: Path) -> None:
    lines = compare(study / "results", "run0", "run1", cells=True, everything=True).table
    mine = lines[lines["suite"] == "shift"].set_index("metric")
    assert mine.loc["shift_cifar_10_1_top1", "n"] == 40
    assert mine.loc["shift_cifar_10_1_drop", "n"] == 100
    assert mine.loc["shift_clean", "n"] == 60


@pytest.mark.slow
def test_tables_figures_and_pages_are_made_of_them(
    study: Path, bench: Bench, tmp_path: Path
) -> None:
    results = ["--results", str(study / "results")]
    shown = bench("leaderboard", *results, "--metrics", "shift_cifar_10_1_top1").out
    assert "CIFAR-10.1 top-1" in shown
    assert bench("plot", *results, "--figure", "shift", "--out", tmp_path / "figures").code == 0
    drawn = pd.read_csv(next((tmp_path / "figures").rglob("shift*.csv")))
    assert set(drawn["group"].dropna()) == {"cifar-10.1"}
    for command, out in (("site", "site"), ("report", "report.html")):
        assert bench(command, *results, "--out", tmp_path / out).code == 0
    assert "CIFAR-10.1 drop (points)" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_bundle_of_them_is_verified(study: Path, tmp_path: Path) -> None:
    bundle, _ = submit(str(study / "runs" / "run0"), study / "results", tmp_path / "b.zip", True)
    report = verify(bundle, Plan(0, cells=9, here=Evaluation(data_root=study)))
    assert report.reproduced, [f.text for f in report.findings() if not f.ok]
    assert report.exact


def test_what_is_up_to_date_is_not_measured_again_and_another_limit_is(study: Path) -> None:
    before = {path: record.created for path, record in find_records(study / "results")}
    request = Evaluation("shift", data_root=study, results=study / "results")
    (path,) = evaluate_run(study / "runs" / "run0", request)
    (record,) = (r for p, r in find_records(study / "results") if p == path)
    assert record.created == before[path]
    limited = Evaluation("shift", data_root=study, results=study / "limited", limit=60)
    (other,) = evaluate_run(study / "runs" / "run0", limited).values()
    # All 60 clean images, and all 40 of the set: the limit takes none away.
    assert other.key == record.key
    fewer = Evaluation("shift", data_root=study, results=study / "limited", limit=50)
    (other,) = evaluate_run(study / "runs" / "run0", fewer).values()
    assert other.key != record.key
