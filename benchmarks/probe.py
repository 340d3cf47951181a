"""What the default linear probe takes, with and without its quick search for λ.

On features of Fashion-MNIST by random projections of the pixels and ReLU, as they are and squeezed
into directions whose scales fall from 1 to 1e-4; scikit-learn's optimum at the same λ beside it.
Processor seconds, so that neighbours count little.

    python benchmarks/probe.py --data-root /usr/share/datasets --json probe.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from robustbench_coss.datasets.base import ArraySet, open_dataset
from robustbench_coss.evaluations.probes import logistic
from robustbench_coss.evaluations.probes.design import Design, standardisation
from robustbench_coss.evaluations.probes.linear import ProbeConfig, accuracy, fit_probe
from robustbench_coss.files import write_atomically
from robustbench_coss.machine.environment import device_name

Role = tuple[Tensor, Tensor]


def features(data_root: Path, width: int, squeezed: bool, images: int | None) -> dict[str, Role]:
    """Features [N, width] and labels of each role."""
    draw = torch.Generator().manual_seed(0)
    found: dict[str, Role] = {}
    weight = bias = turn = torch.empty(0)
    for role in ("train", "validation", "test"):
        data = open_dataset("fashion-mnist", role, root=data_root)
        assert isinstance(data, ArraySet)
        pixels = data.pixels[:images, 0].flatten(1).float() / 255
        if role == "train":
            weight = 3 * torch.randn(pixels.shape[1], width, generator=draw) / 32
            bias = 0.1 * torch.randn(width, generator=draw) - pixels.mean(dim=0) @ weight
            turn, _ = torch.linalg.qr(torch.randn(width, width, generator=draw))
        x = (pixels @ weight + bias).relu()
        if squeezed:
            x = (x * torch.logspace(0, -4, width)) @ turn
        found[role] = x, data.labels[:images]
    return found


def plain_search(roles: dict[str, Role]) -> dict[str, float]:
    """The probe with every fit in float64 and without the Hessian's blocks."""
    quick = Design.single, logistic.BLOCK_WORK, logistic.CG_EASY
    Design.single = lambda self: self  # type: ignore[method-assign]
    logistic.BLOCK_WORK, logistic.CG_EASY = {"cpu": 0.0}, 40
    try:
        return probe(roles)
    finally:
        Design.single, logistic.BLOCK_WORK, logistic.CG_EASY = quick  # type: ignore[method-assign]


def probe(roles: dict[str, Role]) -> dict[str, float]:
    """The default probe."""
    classifier, found = fit_probe(ProbeConfig(), roles["train"], roles["validation"], 10)
    return {
        "test_top1": 100 * accuracy(classifier, *roles["test"]),
        "l2": found["l2"],
        "gap": found["gap"],
    }


def reference(roles: dict[str, Role], l2: float) -> dict[str, float]:
    """scikit-learn's optimum at one λ, on training and validation images: no search."""
    x = torch.cat([roles["train"][0], roles["validation"][0]])
    y = torch.cat([roles["train"][1], roles["validation"][1]])
    mean, scale = standardisation(x)
    model = LogisticRegression(C=1 / l2, solver="newton-cg", tol=1e-6, max_iter=500)
    model.fit(((x - mean) / scale).numpy(), y.numpy())
    z, truth = ((roles["test"][0] - mean) / scale).numpy(), roles["test"][1].numpy()
    return {"test_top1": 100 * float(model.score(z, truth)), "l2": l2}


def timed(call: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """What a call finds, and the processor and wall seconds that it takes."""
    wall, processor = time.perf_counter(), time.process_time()
    found: dict[str, Any] = call()
    found |= {"cpu_seconds": round(time.process_time() - processor, 1)}
    return found | {"seconds": round(time.perf_counter() - wall, 1)}


def main() -> None:
    """Run the contestants and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--width", type=int, default=512, help="number of features")
    parser.add_argument("--images", type=int, help="at most so many per role")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="contestants")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    results: dict[str, Any] = {
        "processor": device_name(torch.device("cpu")),
        "width": given.width,
    }
    for squeezed in (False, True):
        roles = features(given.data_root, given.width, squeezed, given.images)
        name = "squeezed" if squeezed else "plain"
        rows = {"probe": timed(lambda: probe(roles))}  # noqa: B023 — called at once
        l2 = rows["probe"]["l2"]
        others: dict[str, Callable[[], dict[str, float]]] = {
            "float64": lambda: plain_search(roles),  # noqa: B023
            "scikit-learn": lambda: reference(roles, l2),  # noqa: B023
        }
        for key, call in others.items():
            if given.only is None or key in given.only:
                rows[key] = timed(call)
                ratio = rows[key]["cpu_seconds"] / max(rows["probe"]["cpu_seconds"], 0.1)
                rows[key]["times_the_probe"] = round(ratio, 2)
        for key, row in rows.items():
            print(name, key, row, flush=True)
        results[name] = {"images": len(roles["train"][1]) + len(roles["validation"][1]), **rows}
    if given.json is not None:
        write_atomically(given.json, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
