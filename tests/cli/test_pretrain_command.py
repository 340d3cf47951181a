"""`coss-bench pretrain`: what it prints, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.bench import Bench
from helpers.command_line import QUICK, complaint

from robustbench_coss.models.checkpoint import load_checkpoint
from robustbench_coss.records.record import find_records

pytestmark = pytest.mark.usefixtures("small_bank")


def tree(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder with its content."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What a small run looks like


@pytest.mark.slow
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
    times = r"\d:\d\d elapsed, \d:\d\d left"
    lines = [
        rf"byol seed 3: epoch 1/2 loss \d\.\d{{3}} kNN {share} rank \d+\.\d, {times}",
        rf"byol seed 3: epoch 2/2 loss \d\.\d{{3}} kNN {share} rank \d+\.\d, {times}",
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
        ("--width nan", "width: Input should be less than or equal to 8, got nan"),
        ("--width inf", "width: Input should be less than or equal to 8, got inf"),
        ("--width 9", "width: Input should be less than or equal to 8, got 9"),
        ("--image-size 4", "size: Input should be greater than or equal to 8, got 4"),
        ("--precision 16", "precision: Input should be '32', 'bf16' or 'auto', got '16'"),
        ("--device tpu", "unknown device 'tpu'; known: auto, cpu, cuda"),
        ("--set optimizer.lr", "--set takes KEY=VALUE, such as optimizer.lr=0.2"),
        ("--set =1", "--set takes KEY=VALUE"),
        ("--set optimizer..lr=1", "--set takes KEY=VALUE"),
        ("--set optimizer.lr=[", "--set optimizer.lr: '[' is not a YAML value"),
        ("--set optimizer.lr=fast", "optimizer.lr: Input should be a valid number"),
        ("--set optimizer.lr=.inf", "optimizer.lr: '.inf' is not a YAML value (the number .inf"),
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
