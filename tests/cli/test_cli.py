"""The command line: help that helps, and one line for whatever users get wrong."""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.bench import Bench, Outcome
from safetensors.torch import save_file

from robustbench_coss import __version__
from robustbench_coss.cli import app
from robustbench_coss.models.checkpoint import load_checkpoint
from robustbench_coss.pretrain.recipe import build_recipe, shipped_recipes
from robustbench_coss.pretrain.train import pretrain
from robustbench_coss.records.record import find_records, read_record

pytestmark = pytest.mark.usefixtures("small_bank")
COMMANDS = sorted(str(command.name) for command in app.registered_commands)
TINY: dict[str, Any] = {
    "arch": "rf29_resnet18",
    "dataset": "parts",
    "width": 1 / 16,
    "limit": 128,
    "batch_size": 32,
    "epochs": 1,
    "options": {"hidden": 64, "dim": 16},
}
QUICK = ("--limit", 20, "--probe-train", 64, "--device", "cpu")


@pytest.fixture(scope="module")
def run(small_bank: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the smallest kind; no test writes into it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    pretrain(build_recipe(TINY, "test"), folder, device="cpu")
    return folder


def tree(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder with its content."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def complaint(outcome: Outcome) -> str:
    """The one line that a refused command left, and nothing else."""
    assert outcome.code == 1, outcome
    assert outcome.out == ""
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    return line


# Help


def test_help_lists_every_command(bench: Bench) -> None:
    outcome = bench("--help")
    assert outcome.code == 0
    for name in COMMANDS:
        assert re.search(rf"^. {name}  +[A-Z]", outcome.out, re.MULTILINE), name


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_shows_an_example_that_fits_80_columns(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    outcome = bench(name, "--help")
    assert outcome.code == 0
    examples = [line.strip() for line in outcome.out.splitlines() if f" coss-bench {name}" in line]
    command = next(c for c in app.registered_commands if c.name == name)
    assert command.callback is not None
    written = re.findall(
        rf"^ *(coss-bench {name}.*)$", command.callback.__doc__ or "", re.MULTILINE
    )
    assert written
    assert set(written) <= set(examples)  # whole: a wrapped example cannot be copied


def test_examples_name_recipes_that_are_shipped(bench: Bench) -> None:
    named = re.findall(r"--recipe ([\w-]+)$|--recipe ([\w-]+) -", bench("pretrain", "--help").out)
    assert named
    assert {first or second for first, second in named} <= set(shipped_recipes())


def test_version_is_printed(bench: Bench) -> None:
    assert bench("--version") == Outcome(0, f"robustbench-coss {__version__}\n", "")


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "robustbench_coss", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"robustbench-coss {__version__}\n",
        "",
    )


def test_help_does_not_wait_for_torch() -> None:
    script = (
        "import sys; from robustbench_coss import cli; sys.argv[1:] = ['eval', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done


def test_a_misspelt_command_or_option_is_a_usage_error(bench: Bench) -> None:
    for arguments in (("pretrian",), ("pretrain", "--epoch", 3), ("eval",)):
        assert bench(*arguments).code == 2


def test_ctrl_c_in_any_command_is_one_line_and_status_130(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(kind: str) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr("robustbench_coss.registry.names", interrupt)
    assert bench("list") == Outcome(130, "", "interrupted\n")


def test_a_warning_is_one_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    bench("--version")
    assert warnings.formatwarning("too hot", UserWarning, "oven.py", 7) == "warning: too hot\n"


# What a small run looks like


def test_a_run_prints_its_epochs_and_the_next_step_and_nothing_else(
    bench: Bench, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = ("--width", 1 / 16, "--limit", 64, "--batch-size", 32, "--epochs", 2)
    outcome = bench(
        *("pretrain", *options, "--set", "options={hidden: 16, dim: 8}"),
        *("--method", "byol", "--seed", 3, "--device", "cpu", "--out", out),
    )
    assert outcome.code == 0
    beside, *rest = outcome.out.splitlines()
    share = r"\d+\.\d%"
    controls = rf"kNN on 100 validation images: {share} \(pixels {share}, untrained {share}\); .+"
    assert re.fullmatch(controls, beside), beside
    assert rest == [
        f"encoder: {out / 'encoder.safetensors'}",
        f"next: coss-bench eval {out} --suite all",
    ]
    lines = [
        rf"byol seed 3: epoch 1/2 loss \d\.\d{{3}} kNN {share} rank \d+\.\d",
        rf"byol seed 3: epoch 2/2 loss \d\.\d{{3}} kNN {share} rank \d+\.\d",
    ]
    assert re.fullmatch("\n".join(lines) + "\n", outcome.err), outcome.err
    # What the next step says, it does.
    step = rest[1].replace("next: coss-bench ", "").replace("all", "clean")
    results = tmp_path / "results"
    measured = bench(*step.split(), *QUICK, "--results", results)
    assert measured.code == 0, measured.err
    assert measured.err == ""
    assert [record.suite for _, record in find_records(results)] == ["clean"]


def test_settings_reach_the_exported_encoder(bench: Bench, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("{method: byol, width: 0.0625, limit: 64, batch_size: 32, seed: 5}")
    out = tmp_path / "run"
    outcome = bench(
        *("pretrain", "--recipe", recipe, "--batch-size", 64, "--epochs", 1, "--device", "cpu"),
        *("--set", "optimizer.lr=1e-2", "--set", "options.hidden=32", "--out", out),
    )
    assert outcome.code == 0, outcome.err
    training = load_checkpoint(out).metadata["training"]["recipe"]
    assert training["seed"] == 5  # the recipe's
    assert training["batch_size"] == 64  # the option's, over the recipe's
    assert training["optimizer"]["lr"] == 0.01
    assert training["options"]["hidden"] == 32


# Wrong options of pretrain: refused before anything is written


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--method coo-byol", "unknown method 'coo-byol'; did you mean co-byol,"),
        ("--arch resnet17", "unknown encoder 'resnet17'; did you mean resnet18,"),
        ("--dataset cifr10", "unknown dataset 'cifr10'; did you mean cifar10"),
        ("--recipe quikstart", "no recipe is named 'quikstart'; did you mean quickstart?"),
        ("--recipe none.yaml", "cannot read recipe none.yaml: No such file"),
        ("--dataset cifar10", "cifar10 is not in data, which does not exist; add --download"),
        ("--dataset imagenet --data-root no", "imagenet is not in no, which does not exist; get"),
        ("--batch-size 1", "batch_size: Input should be greater than or equal to 2, got 1"),
        ("--batch-size 4 --set accumulate=4", "raise --batch-size to at least 2 per micro-batch"),
        ("--batch-size 5 --set accumulate=2", "batch_size 5 is not a multiple of accumulate 2"),
        ("--limit 10", "10 training images do not fill one batch of 256; lower --batch-size"),
        ("--epochs 0", "epochs: Input should be greater than or equal to 1, got 0"),
        ("--width nan", "width: Input should be greater than 0, got nan"),
        ("--width inf", "width must be a finite number, got inf"),
        ("--width 9", "width must be above 0 and at most 8, got 9"),
        ("--image-size 4", "size: Input should be greater than or equal to 8, got 4"),
        ("--precision 16", "precision: Input should be '32' or 'bf16', got '16'"),
        ("--device tpu", "unknown device 'tpu'; known: auto, cpu, cuda"),
        ("--set optimizer.lr", "--set takes KEY=VALUE, such as optimizer.lr=0.2"),
        ("--set =1", "--set takes KEY=VALUE"),
        ("--set optimizer..lr=1", "--set takes KEY=VALUE"),
        ("--set optimizer.lr=[", "--set optimizer.lr: '[' is not a YAML value"),
        ("--set optimizer.lr=fast", "optimizer.lr: Input should be a valid number"),
        ("--set optimizer.lr=.inf", "optimizer.lr must be a finite number, got inf"),
        ("--set optimizer.lrr=1", "unknown key 'optimizer.lrr', did you mean lr?"),
        ("--set epoch=1", "unknown key 'epoch', did you mean epochs?"),
        ("--set epochs.x=1", "epochs: Input should be a valid integer, got {'x': 1}"),
        ("--set options=1", "options: Input should be a valid dictionary, got 1"),
        ("--set options.w_x=1", "options of COBYOL: unknown key 'w_x', did you mean w_s?"),
        ("--set options.w_s=2", "w_s: Input should be less than or equal to 1, got 2"),
        ("--method byol --set options.grid=2", "options of BYOL: unknown key 'grid', known: ema,"),
        ("--resume", "--resume needs --out RUN"),
        ("--resume --out gone", "nothing to resume: gone holds no recipe.yaml; drop --resume"),
    ],
)
def test_pretrain_refuses(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in complaint(bench("pretrain", *arguments.split()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"epoch: 3\noptimizer: {lrr: 1}\n", "'optimizer.lrr', did you mean lr?; unknown key 'ep"),
        (b"epochs: many\n", "epochs: Input should be a valid integer"),
        (b"epochs: [\n", "is not valid YAML"),
        (b"\xff\xfe\x00binary", "is not valid YAML"),
        (b"- epochs\n", "must be a mapping of keys to values"),
        (b"", "must be a mapping of keys to values"),
    ],
)
def test_a_recipe_that_is_wrong_is_named_with_what_is_wrong(
    bench: Bench, tmp_path: Path, content: bytes, expected: str
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_bytes(content)
    line = complaint(bench("pretrain", "--recipe", recipe, "--out", tmp_path / "run"))
    assert expected in line
    assert str(recipe) in line
    assert not (tmp_path / "run").exists()


def test_yaml_tags_that_construct_objects_are_refused(bench: Bench, tmp_path: Path) -> None:
    recipe, marker = tmp_path / "mine.yaml", tmp_path / "executed"
    recipe.write_text(f"method: !!python/object/apply:os.mkdir ['{marker}']\n")
    assert "is not valid YAML" in complaint(bench("pretrain", "--recipe", recipe))
    complaint(bench("pretrain", "--set", f"method=!!python/object/apply:os.mkdir ['{marker}']"))
    assert not marker.exists()


def test_a_run_folder_in_use_is_left_alone(bench: Bench, tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    file.write_text("more work")
    before = tree(tmp_path)
    expected = {
        folder: "is not empty; pass --resume to go on with it, or another --out",
        file: "is a file; pass a folder as --out",
        file / "run": "Not a directory; a file is in the way; choose another folder",
    }
    for out, words in expected.items():
        options = ("--width", 1 / 16, "--limit", 64, "--batch-size", 32)
        assert words in complaint(bench("pretrain", *options, "--out", out))
    assert tree(tmp_path) == before


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
    assert f"{copy} is truncated or not a safetensors file" in line
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
    assert "holds no encoder.safetensors; pass" in complaint(bench("eval", tmp_path))


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


def test_ctrl_c_in_an_evaluation_exits_130_and_the_same_command_goes_on(
    bench: Bench, run: Path, tmp_path: Path
) -> None:
    arguments = [
        *("eval", str(run), "--suite", "occlusion", "--results", str(tmp_path)),
        *("--limit", "400", "--probe-train", "64", "--device", "cpu"),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "robustbench_coss", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Shells start background jobs with SIGINT ignored, and a test run may be one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
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


# The other commands


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("arch resnet17", "unknown encoder 'resnet17'; did you mean resnet18"),
        ("arch resnet18 --image-size 4", "--image-size must be at least 8 px, got 4"),
        ("arch resnet18 --width 0", "width must be above 0 and at most 8, got 0"),
        ("leaderboard --results gone", "no complete records in gone; measure a model first with"),
        ("plot --results gone", "no complete records in gone; measure a model first with"),
    ],
)
def test_a_command_refuses(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in complaint(bench(*arguments.split()))
    assert list(tmp_path.iterdir()) == []


def test_arch_shows_the_field_by_formula_and_by_gradient(bench: Bench) -> None:
    outcome = bench("arch", "rf29_resnet18", "--width", 0.125)
    assert outcome.code == 0, outcome.err
    assert re.search(r"receptive field \(formula\) +29 px", outcome.out)
    assert re.search(r"receptive field \(gradient\) +29 px", outcome.out)
