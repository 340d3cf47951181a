"""`coss-bench eval`: what it refuses, and how it stops."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.bench import Bench
from helpers.command_line import QUICK, complaint
from helpers.forked import start_command
from safetensors.torch import save_file

from robustbench_coss.pretrain.recipe import build_recipe
from robustbench_coss.pretrain.train import pretrain
from robustbench_coss.records.record import find_records, read_record

pytestmark = pytest.mark.usefixtures("small_bank", "few_pictures")
TINY: dict[str, Any] = {
    "arch": "rf29_resnet18",
    "dataset": "parts",
    "width": 1 / 16,
    "limit": 128,
    "batch_size": 32,
    "epochs": 1,
    "options": {"hidden": 64, "dim": 16},
}


@pytest.fixture(scope="module")
def run(small_bank: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the smallest kind; no test writes into it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    pretrain(build_recipe(TINY, "test"), folder, device="cpu")
    return folder


# Wrong options of eval: refused before anything is measured


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--suite claen", "unknown suite 'claen'; did you mean clean"),
        ("--suite clean,cropp", "unknown suite 'cropp'; did you mean crop"),
        ("--suite ,", "no suite was named; known: all, clean, corruption"),
        ("--dataset mnist", "was pretrained on 'parts', not 'mnist'; add --transfer"),
        ("--dataset mnst", "unknown dataset 'mnst'; did you mean mnist"),
        ("--dataset mnist --transfer --data-root no", "data set 'mnist' is not in no; add"),
        ("--limit 0", "--limit must be at least 1, got 0"),
        ("--device tpu", "unknown device 'tpu'; known: auto, cpu, cuda"),
        ("--probe svm", "unknown kind of probe 'svm'; known: logistic, sgd, simclr"),
    ],
)
def test_eval_refuses(
    bench: Bench, run: Path, tmp_path: Path, arguments: str, expected: str
) -> None:
    results = tmp_path / "results"
    line = complaint(bench("eval", run, "--results", results, *arguments.split()))
    assert expected in line
    assert not results.exists()


class Bomb:
    """Its unpickling makes a folder, as a malicious pickle would do worse."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_the_bomb_is_live(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "executed")))
    assert (tmp_path / "executed").is_dir()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_as_encoder_is_refused_and_not_executed(
    bench: Bench, tmp_path: Path, protocol: int
) -> None:
    folder, marker = tmp_path / "run", tmp_path / "executed"
    folder.mkdir()
    (folder / "encoder.safetensors").write_bytes(pickle.dumps(Bomb(marker), protocol))
    line = complaint(bench("eval", folder, "--results", tmp_path / "results"))
    assert str(folder / "encoder.safetensors") in line
    assert "not opened" in line or "not a safetensors file" in line
    assert not marker.exists()


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_a_truncated_encoder_is_refused(
    bench: Bench, run: Path, tmp_path: Path, kept: float
) -> None:
    whole = (run / "encoder.safetensors").read_bytes()
    copy = tmp_path / "encoder.safetensors"
    copy.write_bytes(whole[: int(kept * len(whole)) if kept == 0.5 else int(kept)])
    line = complaint(bench("eval", copy, "--results", tmp_path / "results"))
    assert str(copy) in line
    assert "truncated" in line
    assert "copy it again" in line


def test_encoders_that_this_tool_did_not_write_are_refused(
    bench: Bench, run: Path, tmp_path: Path
) -> None:
    import torch

    foreign = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign)
    assert "is of no known format; it has weight;" in complaint(bench("eval", foreign))
    resumes = complaint(bench("eval", run / "last.ckpt"))
    assert f"is what training resumes from; pass the run folder {run} instead" in resumes
    assert "does not exist; pass a run folder" in complaint(bench("eval", tmp_path / "gone"))
    weights = "holds weights (model.safetensors) and no config.json"
    assert weights in complaint(bench("eval", tmp_path))
    (tmp_path / "empty").mkdir()
    assert "holds no encoder.safetensors; pass" in complaint(bench("eval", tmp_path / "empty"))


def test_an_unfinished_run_is_refused_with_the_command_that_finishes_it(
    bench: Bench, run: Path, tmp_path: Path
) -> None:
    shutil.copy(run / "last.ckpt", tmp_path)
    line = complaint(bench("eval", tmp_path))
    assert f"finish it with `coss-bench pretrain --resume --out {tmp_path}`" in line


def test_images_too_small_for_the_corruptions_are_named_with_what_to_do(
    bench: Bench, tmp_path: Path
) -> None:
    small, results = tmp_path / "small", tmp_path / "results"
    pretrain(build_recipe(TINY | {"method": "byol", "size": 28}, "test"), small, device="cpu")
    line = complaint(bench("eval", small, "--suite", "corruption", "--results", results, *QUICK))
    assert "at least 32 px, this model takes 28; measure it with --size 32" in line
    assert list(find_records(results)) == []
    outcome = bench(
        *("eval", small, "--suite", "clean,corruption,crop", "--results", results, *QUICK)
    )
    assert "or leave it out with --suite clean,crop" in complaint(outcome)
    assert [record.suite for _, record in find_records(results)] == ["clean", "crop"]


@pytest.mark.slow
def test_a_model_that_cannot_be_measured_stops_no_other(
    bench: Bench, run: Path, tmp_path: Path
) -> None:
    small, results = tmp_path / "small", tmp_path / "results"
    pretrain(build_recipe(TINY | {"method": "byol", "size": 28}, "test"), small, device="cpu")
    outcome = bench("eval", small, run, "--suite", "corruption", "--results", results, *QUICK)
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1].startswith(f"error: {small}: corruptions need images of")
    assert [record.model["name"] for _, record in find_records(results)] == [run.name]


def test_a_single_image_can_be_measured_in_batches_of_one(
    bench: Bench, run: Path, tmp_path: Path
) -> None:
    outcome = bench(
        *("eval", run, "--suite", "clean", "--limit", 1, "--batch-size", 1, "--probe-train", 64),
        *("--results", tmp_path, "--device", "cpu"),
    )
    assert outcome.code == 0, outcome.err
    ((_, record),) = find_records(tmp_path)
    assert len(record.index) == 1


def test_a_file_in_the_way_of_the_results_is_left_alone(
    bench: Bench, run: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    results.write_text("precious")
    line = complaint(bench("eval", run, "--suite", "clean", "--results", results, *QUICK))
    assert "a file is in the way; choose another folder" in line
    assert results.read_text() == "precious"


def test_a_full_disk_stops_an_evaluation_and_what_is_measured_stays(
    bench: Bench, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if "clean" in Path(target).name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    arguments = ("eval", run, "--suite", "crop,clean", "--results", tmp_path, *QUICK)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        line = complaint(bench(*arguments))
    assert "No space left on device; free some space or choose another folder" in line
    assert [record.suite for _, record in find_records(tmp_path)] == ["crop"]
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]  # no half-written file
    assert bench(*arguments).code == 0
    assert sorted(record.suite for _, record in find_records(tmp_path)) == ["clean", "crop"]


@pytest.mark.slow
def test_ctrl_c_in_an_evaluation_exits_130_and_the_same_command_goes_on(
    bench: Bench,
    run: Path,
    tmp_path: Path,
) -> None:
    arguments = [
        *("eval", str(run), "--suite", "occlusion", "--results", str(tmp_path)),
        *("--limit", "1000", "--batch-size", "50", "--probe-train", "64", "--device", "cpu"),
    ]
    process = start_command(*arguments)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if list(tmp_path.glob("records/*/*/occlusion.partial.json")):
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-1] == "interrupted; run the same command again to continue"
    (partial,) = tmp_path.glob("records/*/*/occlusion.partial.json")
    before = {cell.condition: cell.wall_time_s for cell in read_record(partial).cells}
    outcome = bench(*arguments)
    assert outcome.code == 0, outcome.err
    ((_, record),) = find_records(tmp_path)
    after = {cell.condition: cell.wall_time_s for cell in record.cells}
    assert 1 <= len(before) < len(after)
    assert before.items() <= after.items()  # not measured again
    assert not partial.exists()
