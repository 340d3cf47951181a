"""A record states how pictures were cut and which list named them, and is kept by both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.picture_files import CLASSES, write_pictures

from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.datasets.geometry import USUAL, Geometry
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.evaluations.submissions.submit import submit
from robustbench_coss.evaluations.submissions.verify import Plan, verify
from robustbench_coss.models.checkpoint import (
    Checkpoint,
    build_encoder,
    load_checkpoint,
    save_encoder,
)
from robustbench_coss.records.commands import commands_of
from robustbench_coss.records.record import Record


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for seed, (part, count) in enumerate({"train": 8, "val": 6}.items()):
        write_pictures(root / part, CLASSES, count, seed)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    metadata = {
        "arch": "rf29_resnet18",
        "width": 1 / 16,
        "size": 32,
        "dataset": "imagefolder",
        "method": "byol",
        "encoder": "online",
        "training": {"seed": 0, "epochs": 0},
    }
    encoder = build_encoder("rf29_resnet18", size=32, width=1 / 16)
    save_encoder(folder / "encoder.safetensors", encoder, metadata)
    return folder


def loader(run: Path, geometry: Geometry) -> Callable[[], Checkpoint]:
    def load() -> Checkpoint:
        found = load_checkpoint(run)
        found.encoder.input = replace(found.encoder.input, geometry=geometry)
        return found

    return load


@pytest.fixture
def measured(run: Path, root: Path, tmp_path: Path) -> Callable[..., Record]:
    def measure(geometry: Geometry = USUAL, **options: object) -> Record:
        request = Evaluation("clean", data_root=root, results=tmp_path / "results")
        (record,) = evaluate_run(loader(run, geometry), replace(request, **options)).values()
        return record

    return measure


def test_how_pictures_are_cut_is_in_the_record_and_decides_what_is_up_to_date(
    measured: Callable[..., Record], root: Path
) -> None:
    usual, squashed = measured(), measured(Geometry(40, "bicubic", "squash"))
    assert "geometry" not in usual.dataset
    expected = {"resize": 40, "interpolation": "bicubic", "mode": "squash", "fill": [0, 0, 0]}
    assert squashed.dataset["geometry"] == expected
    assert squashed.key != usual.key
    # The probe is of pictures cut alike.
    assert squashed.model["probe"]["key"] != usual.model["probe"]["key"]
    assert measured(Geometry(40, "bicubic", "squash")).created == squashed.created
    assert squashed.dataset["fingerprint"] == usual.dataset["fingerprint"]  # the same test set


def test_a_list_of_images_is_measured_recorded_and_repeated(
    measured: Callable[..., Record], run: Path, root: Path, tmp_path: Path
) -> None:
    path = tmp_path / "five.txt"
    path.write_text("eel/000.png\ncat/001.jpg\nval/dog/005.JPEG\ncat/004.jpg\neel/003.png\n")
    everything, some = measured(), measured(image_list=path)
    assert sorted(some.index.tolist()) == [1, 4, 11, 12, 15]  # of six cats, dogs and eels
    assert some.key != everything.key
    assert some.index.tolist() == [i for i in everything.index if i in some.index]
    assert sorted(some.label.tolist()) == [0, 0, 1, 2, 2]
    assert some.dataset["image_list"]["file"] == "five.txt"
    assert "--image-list five.txt" in commands_of([some])[-1].replace("\\\n    ", "")
    assert measured(image_list=path, limit=2).index.tolist() == some.index.tolist()[:2]

    path.write_text(path.read_text().replace("cat/004.jpg", "cat/003.png"))
    other = measured(image_list=path)
    assert other.key != some.key
    assert other.dataset["n"] == some.dataset["n"]

    (group,) = [m for m in load_measurements(tmp_path / "results") if m.suite == "clean"]
    assert group.records[0].index.tolist() == other.index.tolist()
    bundle, _ = submit(str(run), tmp_path / "results", tmp_path / "bundle.zip", True)
    report = verify(bundle, Plan(0, cells=1, here=Evaluation(data_root=root)))
    assert report.reproduced, [f.text for f in report.findings() if not f.ok]


def test_names_that_are_not_there_are_one_line(
    measured: Callable[..., Record], tmp_path: Path
) -> None:
    path = tmp_path / "list.txt"
    path.write_text("cat/001.jpg\ncat/nobody.jpg\n")
    with pytest.raises(CossError, match=r"1 names that are not there: cat/nobody.jpg; write"):
        measured(image_list=path)
