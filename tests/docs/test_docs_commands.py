"""Every command that the documentation shows is run, page by page from top to bottom.

A page is read in a folder of its own that holds what readers have by then: two methods' runs of two
seeds, their records, a picture. Where a command would take long or needs what is not here, the
table `SMALLER` says what is appended to it; options given twice count the second time. What cannot
be run at all stands in `NOT_RUN` with the reason. New pages are found by themselves.
"""

from __future__ import annotations

import glob
import importlib
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from helpers import ROOT
from helpers.bench import Bench
from helpers.corruption_errors import with_errors
from helpers.simulate import save
from PIL import Image

from robustbench_coss import Evaluation, evaluate, registry
from robustbench_coss.analysis.corruption_error import ALEXNET
from robustbench_coss.datasets.parts import draw_scenes, render
from robustbench_coss.evaluations.probes.linear import ProbeConfig
from robustbench_coss.models.checkpoint import build_encoder, save_encoder
from robustbench_coss.pretrain import sweep
from robustbench_coss.pretrain.recipe import build_recipe, dump_recipe
from robustbench_coss.pretrain.train import pretrain

pytestmark = pytest.mark.usefixtures("small_bank")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)

TINY: dict[str, Any] = {
    "arch": "rf29_resnet18",
    "dataset": "parts",
    "width": 1 / 16,
    "limit": 64,
    "batch_size": 32,
    "epochs": 1,
    "options": {"hidden": 64, "dim": 16},
}

TRAIN = r"(coss-bench|robustbench_coss) pretrain (?!.*--resume)"

# What is appended to every command that the expression is found in.
SMALLER: list[tuple[str, str]] = [
    # Training: one epoch of two steps, 32 px, generated pictures, an encoder of 1/16 the width.
    (
        TRAIN,
        "--device cpu --epochs 1 --batch-size 32 --limit 64 --image-size 32 --dataset parts "
        "--precision 32",
    ),
    (rf"{TRAIN}(?!.*timm:)", "--width 0.0625"),
    (rf"{TRAIN}.*byol", "--set options.hidden=64 --set options.dim=16"),
    (r"pretrain .*--resume", "--device cpu"),
    (rf"{TRAIN}.*accumulate=4", "--batch-size 64"),
    (r"coss-bench sweep (?!.*--dry-run)", "--device cpu --recipe tiny.yaml"),
    (
        r"coss-bench sweep .*--cluster",
        "--dry-run",
    ),  # on Ray: test_cluster.py
    # Measuring: 4 images, a probe of 32; --force, since prepared runs have been measured already.
    (r"coss-bench eval", "--limit 4 --probe-train 32 --batch-size 4 --device cpu --force"),
    (r"coss-bench eval (?!.*--suite)(?!runs/co-byol$)", "--suite crop"),
    (r"coss-bench eval .*--dataset (?!imagefolder)", "--dataset parts --transfer"),
    (r"coss-bench eval .*(\.pth|\.ckpt)", "--size 32"),
    (r"adversarial.attacks=.*autoattack", "--limit 1 --set adversarial.steps=1"),
    (
        r"--corruption-root",
        "--dataset imagefolder --transfer --data-root pictures --corruption-root corrupted",
    ),
    (r"coss-bench show", "--device cpu"),
    (r"--results /data/study/results", "--results results"),
    # Drawing architectures: all fields and kernels, few channels.
    (r"coss-bench arch (?!.*timm:)", "--width 0.0625"),
    # Benchmarks: once, on next to nothing.
    (r"benchmarks[./]eval", "--width 0.0625 --dataset parts --limit 8 --repeats 1 --counts 8 16"),
    (r"benchmarks[./]adversarial", "--images 2 --train-images 64 --epochs 1"),
    (r"benchmarks[./]corruptions", "--images 1 --repeats 1 --size 32"),
    (
        r"benchmarks[./]pretrain",
        "--width 0.0625 --batch 8 --hidden 32 --repeats 1 --steps 0",
    ),
    (
        r"benchmarks[./]pictures",
        "--dataset imagefolder --data-root pictures --size 32 --pictures 20",
    ),
    # The package of the example goes to a folder of its own, built from what is installed.
    (r"pip install examples/", "--target installed --no-deps --no-build-isolation --no-index -q"),
]

NOT_RUN: list[tuple[str, str]] = [
    (r": make test$", "runs this test"),
    (r"start.md: make quickstart$", "is run where README.md says so"),
    (r": make docs$", "installs into an environment of its own; .ci/run calls it"),
    (r": source ", "changes the shell that it is typed in"),
    (r": pre-commit install$", "writes into the repository's .git"),
    (r": pip install --upgrade requests$", "changes the environment of the tests"),
    (r": pip (un)?install imagecorruptions", "changes the environment of the tests"),
    (r": pip install 'robustbench-coss", "needs a package registry"),
    (r": torchrun --nnodes", "needs several machines; with one machine torchrun is run"),
    (r": torchrun --nproc-per-node 8", "needs eight GPUs; with two processes torchrun is run"),
    (r"benchmarks/pretrain.py --arch", "made smaller, it is the command above it"),
    (r"benchmarks/eval.py --width 1", "made smaller, it is the command above it"),
    (r"performance.md: python -m benchmarks.corruptions", "is run where corruptions.md says so"),
    (r": export OMP_NUM_THREADS=1$", "holds for all that is run here"),
    (r"--cluster node07:6379", "needs a Ray cluster; tests/evaluations/test_cluster.py starts one"),
    (r"eval .*--cluster auto", "starts Ray, which tests/evaluations/test_cluster.py does"),
    (
        r"torchvision:resnet50:IMAGENET1K_V2",
        "downloads weights; see tests/core/test_models.py",
    ),
    (r"timm:convnext_atto:d2_in1k", "downloads weights; see tests/core/test_models.py"),
]


@dataclass(frozen=True)
class Command:
    """A line of a page, continuation lines joined; or a whole script, run by bash."""

    page: Path
    text: str

    @property
    def script(self) -> bool:
        return "\n" in self.text

    @property
    def reason(self) -> str | None:
        """Why it is not run, if it is not."""
        return next((why for what, why in NOT_RUN if re.search(what, self.line)), None)

    @property
    def line(self) -> str:
        """With the page before it, which is what `NOT_RUN` is about."""
        return f"{self.page.name}: {self.text}"


def commands(page: Path) -> Iterator[Command]:
    """What a page's shell blocks say to run, in order."""
    for indent, language, body in FENCE.findall(page.read_text(encoding="utf-8")):
        text = re.sub(rf"^{indent}", "", body, flags=re.MULTILINE)
        if language in ("sh", "bash", "console"):
            if re.search(r"^(#!|for |while |if )", text, re.MULTILINE):
                yield Command(page, text)
                continue
            lines = re.sub(r"\\\n", " ", text).splitlines()
        else:
            lines = [line for line in text.splitlines() if re.match(r"(\$ )?coss-bench ", line)]
        for line in lines:
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words:
                yield Command(page, re.sub(r" +#.*$", "", line.removeprefix("$ ")).strip())


ALL = [command for page in PAGES for command in commands(page)]
WITH_COMMANDS = list(dict.fromkeys(command.page for command in ALL))


def smaller(text: str) -> list[str]:
    """The words of a command with what `SMALLER` appends, file patterns replaced by names."""
    text, _, target = text.partition(" > ")
    extra = " ".join(more for what, more in SMALLER if re.search(what, text))
    words = []
    for word in shlex.split(text):
        found = sorted(glob.glob(word)) if "*" in word else []
        words += found or [word]
    return [*words, *shlex.split(extra), *([">", target] if target else [])]


# ---- what readers have ----


@pytest.fixture(scope="module")
def prepared(small_bank: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
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


def for_results(folder: Path) -> None:
    """ImageNet, on which AlexNet's published errors are a baseline."""
    record = with_errors(0.25, dict.fromkeys(ALEXNET, 0.5))
    model = record.model | {"name": "imagenet-s0", "method": "supervised"}
    save(folder / "results", replace(record, model=model))


def for_models(folder: Path) -> None:
    """Checkpoints as other tools write them, of random weights."""
    resnet50, resnet18 = torchvision.models.resnet50(), torchvision.models.resnet18()
    resnet18.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)  # solo-learn's, for CIFAR
    backbone = {k: v for k, v in resnet50.state_dict().items() if not k.startswith("fc.")}
    torch.save(backbone, folder / "dino_resnet50_pretrain.pth")
    names = {f"backbone.{k}": v for k, v in resnet18.state_dict().items() if "fc." not in k}
    torch.save({"state_dict": names}, folder / "checkpoint.ckpt")


def for_encoders(folder: Path) -> None:
    """The file that the page's Python example leaves, by fewer channels."""
    save_untrained(folder / "runs" / "torchvision-resnet50", "resnet50", 1 / 16)


def for_export(folder: Path) -> None:
    """torchvision's format holds encoders of width 1 only."""
    shutil.rmtree(folder / "runs" / "co-byol")
    save_untrained(folder / "runs" / "co-byol", "rf29_resnet18", 1.0)


def with_pictures(folder: Path) -> None:
    """A few pictures, and copies of them in ImageNet-C's layout, as if corrupted."""
    for part, first in (("train", 0), ("test", 80)):
        for i, pixels in enumerate(render(draw_scenes("train", np.arange(first, first + 80)), 32)):
            where = folder / "pictures" / part / str(i % 2)
            where.mkdir(parents=True, exist_ok=True)
            if part == "train" or i < 8:
                Image.fromarray(pixels.transpose(1, 2, 0)).save(where / f"{i:02}.png")
    for corruption, severity in itertools.product(ALEXNET, range(1, 6)):
        target = folder / "corrupted" / corruption / str(severity)
        shutil.copytree(folder / "pictures" / "test", target)


def for_comparability(folder: Path) -> None:
    with_pictures(folder)
    for_results(folder)


def for_sweeps(folder: Path) -> None:
    """The sweep that the page writes."""
    blocks = FENCE.findall((ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8"))
    (body,) = [body for _, language, body in blocks if language == "yaml"]
    (folder / "my-sweep.yaml").write_text(body)


def for_gallery(folder: Path) -> None:
    """The records of the repository's studies."""
    for study in ("", "-long", "-crop", "-local"):
        name = f"fashion-mnist{study}"
        shutil.copytree(ROOT / "results" / name / "records", folder / "results" / name / "records")


PREPARE: dict[str, Callable[[Path], None]] = {
    "comparability.md": for_comparability,
    "encoders.md": for_encoders,
    "export.md": for_export,
    "gallery.md": for_gallery,
    "imagenet-at-scale.md": with_pictures,
    "models.md": for_models,
    "results.md": for_results,
    "suites.md": with_pictures,
    "sweeps.md": for_sweeps,
}


def save_untrained(run: Path, arch: str, width: float) -> None:
    encoder = build_encoder(arch, size=32, width=width)
    run.mkdir(parents=True, exist_ok=True)
    about = {"arch": arch, "size": 32, "width": width, "dataset": "parts", "method": "byol"}
    save_encoder(run / "encoder.safetensors", encoder, about)


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
    yield copy
    torch.set_num_threads(threads)
    registry._entries.cache_clear()


def ends(runs: list[Any]) -> list[Any]:
    """A sweep's first and last run; `coss-bench sweep --dry-run` is held elsewhere to list all."""
    return [runs[0], runs[-1]]


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
            run_other([sys.executable, *words[1:]])
        case "torchrun":
            run_other([sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:]])
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


# ---- the tables above ----


@pytest.mark.parametrize("pattern", [what for what, _ in NOT_RUN])
def test_what_is_not_run_is_still_documented(pattern: str) -> None:
    assert any(re.search(pattern, command.line) for command in ALL)


@pytest.mark.parametrize("pattern", [what for what, _ in SMALLER])
def test_what_is_made_smaller_is_still_documented(pattern: str) -> None:
    texts = [command.text for command in ALL if command.reason is None]
    assert any(re.search(pattern, text) for text in texts)


def test_pages_with_files_of_their_own_exist() -> None:
    assert set(PREPARE) <= {page.name for page in WITH_COMMANDS}


def test_commands_are_read_as_a_reader_reads_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\n# Why.\nmake it\ncoss-bench eval \\\n    runs/a  # now\n```\n\n"
        "```\n$ coss-bench list\nanything\n```\n\n```python\nimport torch\n```\n\n"
        "1. Do\n\n    ```bash\n    #!/bin/bash\n    srun coss-bench list\n    ```\n"
    )
    assert [command.text for command in commands(page)] == [
        "make it",
        "coss-bench eval      runs/a",
        "coss-bench list",
        "#!/bin/bash\nsrun coss-bench list\n",
    ]
