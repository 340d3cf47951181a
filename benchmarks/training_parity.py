"""Whether encoders trained here are as good as those that lightly's own classes train.

BYOL, DINO, MoCo v3 and SimCLR, each on both sides with the same images, initial encoder, sizes,
optimiser, schedule and number of steps, and with views of the same distribution: here by
`coss-bench pretrain` itself, there by `lightly_methods`. All are measured by one linear probe and
one kNN on the test images. Runs that the JSON file already holds are not repeated. Not a test.

    python benchmarks/training_parity.py --data-root data --json parity.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightly_methods import METHODS, train
from torch.nn import functional as F

from robustbench_coss import registry
from robustbench_coss.datasets.base import ArraySet, ImageSet, open_dataset
from robustbench_coss.encoders.base import Encoder
from robustbench_coss.encoders.knn import nearest_class
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes.features import extract
from robustbench_coss.evaluations.probes.linear import ProbeConfig, accuracy, fit_probe
from robustbench_coss.evaluations.progress import Progress
from robustbench_coss.files import write_atomically
from robustbench_coss.machine.environment import device_name, versions
from robustbench_coss.models.checkpoint import build_encoder, load_checkpoint
from robustbench_coss.pretrain.data import subset
from robustbench_coss.pretrain.methods.base import parse_options
from robustbench_coss.pretrain.recipe import Recipe, build_recipe, merge, read_recipe
from robustbench_coss.pretrain.train import pretrain
from robustbench_coss.seeds import seed_of

CPU = torch.device("cpu")
SIDES = ("here", "lightly")
ALLOWED = -1.0
"""Points of the linear probe that training here may lie below lightly's."""

RECIPES = {
    "byol": "fashion-mnist-cpu",
    "dino": "fashion-mnist-cpu-dino",
    "mocov3": "fashion-mnist-cpu-mocov3",
    "simclr": "fashion-mnist-cpu",
}
CHANGES: dict[str, Any] = {
    # As in `fashion-mnist-gpu`: views and an encoder with which methods learn in a short time.
    "mlp": False,
    "views": {"jitter": 1.0, "brightness": 0.8, "contrast": 0.8, "solarize": [0.0, 0.0]},
}
SIMCLR = {"hidden": 512, "dim": 128, "temperature": 0.2}  # options of `fashion-mnist-gpu-simclr`


def recipe_for(method: str, seed: int, epochs: int, limit: int) -> Recipe:
    """The run of a method, the same for both sides."""
    values = merge(read_recipe(RECIPES[method]), CHANGES)
    if method == "simclr":
        values |= {"options": SIMCLR}
    run = {"method": method, "seed": seed, "epochs": epochs, "limit": limit}
    return build_recipe(values | run | {"monitor_every": epochs}, method)


def initial(recipe: Recipe, size: int) -> Encoder:
    """The encoder that a run starts from, drawn as `pretrain` draws it."""
    torch.manual_seed(seed_of(recipe.seed, "initialisation"))
    return build_encoder(recipe.arch, size=size, width=recipe.width, mlp=recipe.mlp)


def trained(side: str, recipe: Recipe, images: ImageSet, data_root: Path) -> Encoder:
    """The encoder that one side makes of a recipe."""
    if side == "here":
        with tempfile.TemporaryDirectory() as folder:
            path = pretrain(recipe, Path(folder) / "run", device="cpu", data_root=data_root)
            return load_checkpoint(path).encoder
    assert isinstance(images, ArraySet)
    options = parse_options(registry.load("method", recipe.method), recipe.options)
    pixels = images.images(subset(len(images), recipe.limit).tolist())
    encoder, loss = train(recipe, initial(recipe, images.size), options, pixels)
    print(f"lightly {recipe.method}: loss {loss:.3f}", file=sys.stderr)
    return encoder


def measure(encoder: Encoder, roles: dict[str, ImageSet], bank: int) -> dict[str, float]:
    """Top-1 in % on all test images, of a converged linear probe and of kNN.

    Args:
        bank: training images that both learn from; a third of it are validation images.
    """
    features = {}
    for role, count in (("train", bank), ("validation", bank // 3), ("test", None)):
        chosen = subset(len(roles[role]), count).tolist()
        features[role] = extract(
            encoder, roles[role], chosen, batch_size=250, device=CPU, progress=Progress()
        )
    classes = len(roles["train"].classes)
    probe, _ = fit_probe(ProbeConfig(), features["train"], features["validation"], classes)
    (keys, labels), (queries, truth) = features["train"], features["test"]
    unit = F.normalize(queries, dim=1), F.normalize(keys, dim=1)
    neighbours = nearest_class(*unit, labels, classes)
    return {
        "linear": round(100 * accuracy(probe, queries, truth), 2),
        "knn": round(100 * float((neighbours == truth).float().mean()), 2),
    }


def table(runs: list[dict[str, Any]]) -> list[str]:
    """Lines of a table: mean over seeds of each side, and here − lightly, with its spread.

    The spread is the standard error of the mean of the differences at equal seeds.
    """
    found = {(r["method"], r["side"], r["seed"]): r for r in runs}
    lines = [f"{'method':10}{'metric':8}{'here':>8}{'lightly':>9}{'difference':>12}{'± s.e.':>8}"]
    for method, metric in itertools.product(METHODS, ("linear", "knn")):
        seeds = [s for m, side, s in found if (m, side) == (method, "here")]
        seeds = [s for s in seeds if (method, "lightly", s) in found]
        if not seeds:
            continue
        here, there = ([found[method, side, s][metric] for s in seeds] for side in SIDES)
        differences = [a - b for a, b in zip(here, there, strict=True)]
        mean, error = statistics.mean(differences), "–"
        if len(seeds) > 1:
            error = f"{statistics.stdev(differences) / len(seeds) ** 0.5:.2f}"
        lines.append(
            f"{method:10}{metric:8}{statistics.mean(here):8.2f}{statistics.mean(there):9.2f}"
            f"{mean:+12.2f}{error:>8}"
        )
    return lines


def below(runs: list[dict[str, Any]]) -> list[str]:
    """Methods whose linear probe is further below lightly's than allowed, over all seeds."""
    failed = []
    for method in METHODS:
        values = {
            side: [r["linear"] for r in runs if (r["method"], r["side"]) == (method, side)]
            for side in SIDES
        }
        if all(values.values()):
            difference = statistics.mean(values["here"]) - statistics.mean(values["lightly"])
            if difference < ALLOWED:
                failed.append(method)
    return failed


def held(path: Path | None, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs that a JSON file of the same settings holds.

    Raises:
        CossError: it is of other settings.
    """
    if path is None or not path.exists():
        return []
    content = json.loads(path.read_text())
    if content["settings"] != settings:
        raise CossError(f"{path} holds runs of other settings; pass another --json")
    runs: list[dict[str, Any]] = content["runs"]
    return runs


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--limit", type=int, default=6000, help="training images")
    parser.add_argument("--bank", type=int, default=6000, help="images for probe and kNN")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--json", type=Path, help="hold the runs in this file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    recipes = {m: recipe_for(m, 0, given.epochs, given.limit) for m in METHODS}
    settings = {
        "recipes": {m: recipe.model_dump(mode="json") for m, recipe in recipes.items()},
        "bank": given.bank,
    }
    roles = {
        role: open_dataset(recipes["byol"].dataset, role, size=None, root=given.data_root)
        for role in ("train", "validation", "test")
    }
    try:
        runs = held(given.json, settings)
    except CossError as error:
        sys.exit(f"error: {error}")
    have = {(r["method"], r["side"], r["seed"]) for r in runs}
    cases = [("untrained", "control", seed) for seed in given.seeds]
    cases += itertools.product(given.methods, SIDES, given.seeds)
    for method, side, seed in cases:
        if (method, side, seed) in have:
            continue
        started = time.process_time()
        if side == "control":
            encoder = initial(
                recipe_for("byol", seed, given.epochs, given.limit), roles["train"].size
            )
        else:
            recipe = recipe_for(method, seed, given.epochs, given.limit)
            torch.manual_seed(seed_of(seed, "parity"))
            encoder = trained(side, recipe, roles["train"], given.data_root)
        seconds = round(time.process_time() - started, 1)
        found = measure(encoder, roles, given.bank)
        run = {"method": method, "side": side, "seed": seed, **found, "cpu_seconds": seconds}
        runs.append(run)
        print(run, flush=True)
        if given.json is not None:
            content = {
                "processor": device_name(CPU),
                "versions": versions(),
                "settings": settings,
                "runs": runs,
            }
            write_atomically(given.json, json.dumps(content, indent=1) + "\n")
    print("\n".join(table(runs)))
    failed = below(runs)
    print(f"more than {-ALLOWED:g} point below: {', '.join(failed) or 'none'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
