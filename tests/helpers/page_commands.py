"""The commands of a page, and what is said of them before they are run."""

from __future__ import annotations

import glob
import itertools
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image

from helpers import ROOT
from helpers.corruption_errors import with_errors
from helpers.simulate import save
from robustbench_coss.analysis.corruption_error import ALEXNET
from robustbench_coss.datasets.parts import draw_scenes, render
from robustbench_coss.models.checkpoint import build_encoder, save_encoder

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
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
    # A new interpreter would generate and look at thousands of pictures.
    (r"torchrun ", "--dataset imagefolder --data-root pictures"),
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
    # Drawing: one figure; `make quickstart`, which README.md shows, draws all of them.
    (r"coss-bench plot(?!.*--figure)", "--figure summary"),
    (r"--results /data/study/results", "--results results"),
    # Drawing architectures: all fields and kernels, few channels.
    (r"coss-bench arch (?!.*timm:)", "--width 0.0625"),
    # Benchmarks: once, on next to nothing.
    (r"benchmarks[./]eval", "--width 0.0625 --dataset parts --limit 8 --repeats 1 --counts 8 16"),
    (
        r"benchmarks/eval.py --from-disk",
        "--arch rf29_resnet18 --size 32 --images 12 --batch 6 --conditions 2",
    ),
    (r"benchmarks[./]adversarial", "--images 2 --train-images 64 --epochs 1"),
    (r"benchmarks[./]corruptions", "--images 1 --repeats 1 --size 32"),
    (
        r"benchmarks[./]pretrain",
        # Threads that wait for each other on a busy machine cost more than they do.
        "--width 0.0625 --batch 8 --hidden 32 --repeats 1 --steps 0 --threads 1",
    ),
    (
        r"benchmarks[./]pictures",
        "--dataset imagefolder --data-root pictures --size 32 --pictures 20",
    ),
    # The package of the example goes to a folder of its own, built from what is installed.
    (r"pip install examples/", "--target installed --no-deps --no-build-isolation --no-index -q"),
]
NOT_RUN: list[tuple[str, str]] = [
    (r"^options.md: ", "is an example of a help text; test_docs_made.py holds the page to these"),
    (r": make test$", "runs this test"),
    (r"start.md: make quickstart$", "is run where README.md says so"),
    (r": make docs$", "installs into an environment of its own; .ci/run calls it"),
    (r": source ", "changes the shell that it is typed in"),
    (r": pre-commit install$", "writes into the repository's .git"),
    (r": pip install --upgrade requests$", "changes the environment of the tests"),
    (r": pip install mlflow-skinny$", "changes the environment of the tests"),
    (r": pip (un)?install imagecorruptions", "changes the environment of the tests"),
    (r": (uv tool|pipx|pip) install '(robustbench-coss|\.\[)", "needs a package registry"),
    (r": docker ", "needs Docker; tests/core/test_installing.py holds what can be held without it"),
    (r": torchrun --nnodes", "needs several machines; with one machine torchrun is run"),
    (r": torchrun --nproc-per-node 8", "needs eight GPUs; with two processes torchrun is run"),
    (r"benchmarks/pretrain.py --(arch|repeats)", "made smaller, it is the command above it"),
    (r"benchmarks/eval.py --width 1", "made smaller, it is the command above it"),
    (r"performance.md: python -m benchmarks.corruptions", "is run where corruptions.md says so"),
    (r": export OMP_NUM_THREADS=1$", "holds for all that is run here"),
    (r"--cluster node07:6379", "needs a Ray cluster; tests/evaluations/test_cluster.py starts one"),
    (
        r"compare .*--trials",
        "needs model-vs-human's trials; tests/evaluations/test_trials.py has some",
    ),
    (r"eval .*--cluster auto", "starts Ray, which tests/evaluations/test_cluster.py does"),
    (
        r"torchvision:resnet50:IMAGENET1K_V2",
        "downloads weights; see tests/core/test_models.py",
    ),
    (r"timm:convnext_atto:d2_in1k", "downloads weights; see tests/core/test_models.py"),
    (r"eval (hf|open_clip):", "downloads weights; see tests/core/models/test_hub_names.py"),
    (r"eval (mae_pretrain|dino_deits)", "files of hundreds of MB; see tests/core/models"),
    (r"sha256sum --check$", "needs an archive of hundreds of MB"),
    (r"eval zoo:", "downloads weights; see tests/core/models/test_zoo.py"),
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
    own = {f"net.encoder.{k}": v for k, v in torchvision.models.resnet18().state_dict().items()}
    torch.save({"state_dict": own}, folder / "byol.ckpt")


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
    """Records of the repository's studies: two seeds of each model, of four methods."""
    for study in ("fashion-mnist", "fashion-mnist-crop"):
        for run in sorted((ROOT / "results" / study / "records").iterdir()):
            if re.search(r"-s[2-9]-[0-9a-f]{8}$|mocov3|supervised", run.name) is None:
                shutil.copytree(run, folder / "results" / study / "records" / run.name)


def for_readme(folder: Path) -> None:
    for_models(folder)
    with_pictures(folder)


PREPARE: dict[str, Callable[[Path], None]] = {
    "README.md": for_readme,
    "comparability.md": for_comparability,
    "distributed.md": with_pictures,
    "encoders.md": for_encoders,
    "export.md": for_export,
    "gallery.md": for_gallery,
    "imagenet-at-scale.md": with_pictures,
    "models.md": for_models,
    "paper.md": for_gallery,
    "results.md": for_results,
    "suites.md": with_pictures,
    "sweeps.md": for_sweeps,
}


def save_untrained(run: Path, arch: str, width: float) -> None:
    encoder = build_encoder(arch, size=32, width=width)
    run.mkdir(parents=True, exist_ok=True)
    about = {"arch": arch, "size": 32, "width": width, "dataset": "parts", "method": "byol"}
    save_encoder(run / "encoder.safetensors", encoder, about)
