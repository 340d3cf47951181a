"""Every command that the documentation shows is run, page by page from top to bottom.

A page is read in a folder of its own that holds what readers have by then: two methods' runs of two
seeds, their records, a picture. New pages are found by themselves."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.bench import Bench
from helpers.forked import Forked, run_python, torchrun
from helpers.page_commands import PREPARE, WITH_COMMANDS, Command, commands, smaller
from PIL import Image

from robustbench_coss import Evaluation, evaluate, registry
from robustbench_coss.datasets.parts import draw_scenes, render
from robustbench_coss.evaluations.probes.linear import ProbeConfig
from robustbench_coss.evaluations.running import job
from robustbench_coss.pretrain import sweep
from robustbench_coss.pretrain.recipe import build_recipe, dump_recipe
from robustbench_coss.pretrain.train import pretrain

pytestmark = pytest.mark.usefixtures("small_bank")
TINY: dict[str, Any] = {
    "arch": "rf29_resnet18",
    "dataset": "parts",
    "width": 1 / 16,
    "limit": 64,
    "batch_size": 32,
    "epochs": 1,
    "options": {"hidden": 64, "dim": 16},
}


# ---- what readers have ----


@pytest.fixture(scope="module")
def prepared(
    small_bank: None, few_pictures: object, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A working folder: trained runs, records of them, a picture. Copied, never written to."""
    folder = tmp_path_factory.mktemp("prepared")
    for name in ("benchmarks", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pyc*"))
    (folder / "docs" / "images").mkdir(parents=True)
    (folder / "tiny.yaml").write_text(dump_recipe(build_recipe(TINY, "tests")))
    for method in ("byol", "co-byol"):
        for seed, name in ((0, f"{method}-s0"), (1, method)):
            recipe = build_recipe(TINY | {"method": method, "seed": seed}, "tests")
            pretrain(recipe, folder / "runs" / name, device="cpu")
    shutil.copytree(folder / "runs" / "co-byol", folder / "runs" / "my-encoder")
    picture = render(draw_scenes("test", np.arange(1)), 64)[0].transpose(1, 2, 0)
    Image.fromarray(picture).save(folder / "cat.jpg")
    return folder


@pytest.fixture(scope="module")
def measured(prepared: Path) -> Path:
    """The same with records."""
    request = Evaluation(
        ["clean", "corruption", "crop", "redundancy"],
        results=prepared / "results",
        limit=4,
        batch_size=4,
        device="cpu",
        probe=ProbeConfig(max_train=32),
    )
    for run in ("byol", "co-byol", "byol-s0", "co-byol-s0"):
        for _ in evaluate(prepared / "runs" / run, request):
            pass
    return prepared


def environment() -> dict[str, str]:
    """Of other processes: one thread, this checkout first."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
        "PYTHONPATH": os.pathsep.join([".", str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }


# ---- running ----


@pytest.fixture
def folder(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the prepared folder, as working folder."""
    copy = tmp_path / "work"
    shutil.copytree(measured, copy)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    every_run = sweep.plan
    monkeypatch.setattr(sweep, "plan", lambda *a: ends(every_run(*a)))
    quickstart = importlib.import_module("robustbench_coss.cli.quickstart")
    monkeypatch.setattr(quickstart, "TEST_IMAGES", 4)
    monkeypatch.setattr(quickstart, "RECIPE", "tiny.yaml")
    # Attacks of one step at one budget, where a page asks for the default.
    made, short = job.make_suite, {"adversarial": {"steps": 1, "eps": [1], "eps_l2": [0.5]}}
    monkeypatch.setattr(job, "make_suite", lambda n, o: made(n, short.get(n, {}) | dict(o)))
    yield copy
    torch.set_num_threads(threads)
    registry._entries.cache_clear()


def ends(runs: list[Any]) -> list[Any]:
    """A sweep's first and last run; `coss-bench sweep --dry-run` is held elsewhere to list all."""
    return [runs[0], runs[-1]]


def fork(call: Callable[[list[str]], None], words: list[str]) -> None:
    """A command of Python's in a fork of this process, as if by a new interpreter."""

    def run() -> None:
        os.environ |= environment()
        for known in [key for key in sys.modules if key.partition(".")[0] == "benchmarks"]:
            del sys.modules[known]
        call(words)

    process = Forked(run)
    said = process.communicate(timeout=300)
    assert process.returncode == 0, (words, *said)


def run_other(words: list[str]) -> None:
    """A command in a process of its own."""
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"


def run_coss_bench(bench: Bench, words: list[str]) -> None:
    """In this process; a run that the page makes anew is taken away first, with its records."""
    arguments, target = (words[:-2], words[-1]) if words[-2:-1] == [">"] else (words, None)
    if arguments[0] == "pretrain" and "--out" in arguments and "--resume" not in arguments:
        run = Path(arguments[arguments.index("--out") + 1])
        shutil.rmtree(run, ignore_errors=True)
        for records in Path("results/records").glob(f"{run.name}-????????*"):
            if not records.name.startswith(f"{run.name}-s"):
                shutil.rmtree(records)
    outcome = bench(*arguments)
    assert outcome.code == 0, f"coss-bench {shlex.join(arguments)}\n{outcome.out}\n{outcome.err}"
    assert "Traceback" not in outcome.err
    if target:
        Path(target).write_text(outcome.out)


def run_script(bench: Bench, text: str) -> None:
    """Bash with SLURM's srun and `coss-bench` replaced; what it calls is then run as always."""
    said, bin = Path("said.txt").absolute(), Path("bin").absolute()
    bin.mkdir(exist_ok=True)
    said.write_text("")
    stubs = {
        "srun": 'while [[ $1 == -* ]]; do shift; done\nexec "$@"\n',
        "coss-bench": f'printf "%s " coss-bench "${{@@Q}}" >> {said}\necho >> {said}\n',
    }
    for name, body in stubs.items():
        (bin / name).write_text(f"#!/bin/bash\n{body}")
        (bin / name).chmod(0o755)
    Path("script.sh").write_text(text)
    path = os.pathsep.join([str(bin), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "script.sh"],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path},
    )
    assert done.returncode == 0, done.stderr
    calls = said.read_text().splitlines()
    assert calls, "the script calls no coss-bench"
    for call in calls:
        run_coss_bench(bench, smaller(shlex.join(shlex.split(call)))[1:])


def run_command(bench: Bench, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    if command.script:
        run_script(bench, command.text)
        return
    words = smaller(command.text)
    match Path(words[0]).name:
        case "coss-bench":
            run_coss_bench(bench, words[1:])
        case "python":
            fork(run_python, words[1:])
        case "torchrun":
            # Of one process; test_distributed.py starts two.
            one = ["1" if word == "2" else word for word in words[1:]]
            fork(torchrun, ["--standalone", *one])
        case "pip":
            run_other([sys.executable, "-m", "pip", *words[1:]])
            monkeypatch.syspath_prepend("installed")
            registry._entries.cache_clear()
        case "make":  # in small: what it would call after installing
            planned = subprocess.run(
                ["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True
            )
            calls = re.findall(r"^\.venv/bin/(coss-bench .*)$", planned.stdout, re.MULTILINE)
            assert calls, planned.stdout
            for call in calls:
                run_coss_bench(bench, smaller(call)[1:])
        case "mkdir" | "cp" | "mv" | "ls":
            run_other(words)
        case other:
            pytest.fail(f"say in this file how {other!r} is run, or in NOT_RUN why it is not")


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.name)
def test_the_commands_of_a_page_work_from_top_to_bottom(
    page: Path, folder: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    PREPARE.get(page.name, lambda _: None)(folder)
    for command in commands(page):
        if command.reason is None:
            run_command(bench, command, monkeypatch)
