"""Whether the quickstart's encoders learn on every seed, instruction set and number of threads.

    python benchmarks/quickstart.py --seeds 0 1 2 3 4 --isa avx2 avx512 --threads 1 2

Each case trains SimCLR and CO-SimCLR by the quickstart's recipe in a process of its own, then
measures the suite `clean` on all test images for both, for the encoder before training and for the
pixels.
Training is chaotic: other instructions round otherwise, and the same seed gives another network. A
case is good where both encoders are at least 20 points above the untrained one, and above the
pixels. Cases that the JSON file already holds are not run again. Not a test.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from robustbench_coss.cli.quickstart import METHODS, RECIPE
from robustbench_coss.files import write_atomically
from robustbench_coss.machine.environment import device_name

MARGIN = 20.0
CAPABILITIES = {
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "avx512": {},  # what the processor has, where it has it
}


def measure(seed: int, threads: int) -> dict[str, float]:
    """Top-1 in % by linear probe of both methods and both controls, and seconds of training."""
    import robustbench_coss
    from robustbench_coss.models.load import load_model
    from robustbench_coss.pretrain.recipe import build_recipe, read_recipe
    from robustbench_coss.pretrain.train import pretrain

    torch.set_num_threads(threads)
    values = read_recipe(RECIPE) | {"seed": seed}
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        out, models = Path(folder), {}
        for method in METHODS:
            recipe = build_recipe(values | {"method": method}, RECIPE)
            started = time.perf_counter()
            pretrain(recipe, out / method, device="cpu")
            found[f"{method} seconds"] = round(time.perf_counter() - started, 1)
            models[method] = load_model(str(out / method))
        untrained = f"control:untrained:{recipe.arch}:{recipe.width:g}:{seed}"
        untrained += ":no-mlp" if recipe.mlp is False else ""
        models["untrained"] = load_model(untrained, dataset=recipe.dataset)
        models["pixels"] = load_model("control:pixels", dataset=recipe.dataset)
        asked = robustbench_coss.Evaluation(
            "clean", dataset=recipe.dataset, results=out / "results", device="cpu"
        )
        for name, model in models.items():
            for done in robustbench_coss.evaluate(model, asked):
                found[name] = round(100 * float(done.cell.outcomes["correct"].mean()), 2)
    return found


def run_case(isa: str, threads: int, seed: int) -> dict[str, Any]:
    """A case in a process of its own: instruction sets are chosen when torch is imported."""
    words = [sys.executable, __file__, "--case", str(seed), str(threads)]
    env = os.environ | CAPABILITIES[isa] | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(words, env=env, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    above = min(found[m] - found["untrained"] for m in METHODS)
    good = above >= MARGIN and min(found[m] for m in METHODS) > found["pixels"]
    return {"isa": isa, "threads": threads, "seed": seed, **found, "good": good}


def main() -> None:
    """Run what is missing and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--isa", nargs="+", choices=CAPABILITIES, default=list(CAPABILITIES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path, help="hold the results in this file")
    parser.add_argument("--case", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(*arguments.case)))
        return
    path: Path | None = arguments.json
    cases: list[dict[str, Any]] = []
    if path is not None and path.exists():
        cases = json.loads(path.read_text())["cases"]
    have = {(case["isa"], case["threads"], case["seed"]) for case in cases}
    for key in itertools.product(arguments.isa, arguments.threads, arguments.seeds):
        if key not in have:
            cases.append(run_case(*key))
            print(cases[-1], flush=True)
        if path is not None:
            held = {"processor": device_name(torch.device("cpu")), "recipe": RECIPE, "cases": cases}
            write_atomically(path, json.dumps(held, indent=1) + "\n")
    good = sum(case["good"] for case in cases)
    print(f"{good} of {len(cases)} cases are good")


if __name__ == "__main__":
    main()
