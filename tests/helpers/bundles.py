"""Bundles of a tiny run, honest and otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import FEW
from robustbench_coss.evaluations.probes.linear import ProbeConfig
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.evaluations.submissions.bundle import ENVIRONMENT, open_bundle, write_bundle
from robustbench_coss.evaluations.submissions.submit import environment_of, manifest_of, submit
from robustbench_coss.evaluations.submissions.verify import Plan
from robustbench_coss.records.record import Record, from_json, to_json, write_record

IMAGES = FEW["test"]
ADVERSARIAL = {
    "attacks": ["fgsm", "pgd-linf", "pgd-l2"],
    "eps": [0.5, 1.0],
    "eps_l2": [0.1, 0.2],
    "steps": 3,
}
HERE = Evaluation(device="cpu")
PLAN = Plan(seed=0, here=HERE)
Files = dict[str, bytes]


def measure(run: Path, results: Path, *suites: str) -> Path:
    """The bundle of a run measured with suites."""
    request = Evaluation(
        suites,
        results=results,
        device="cpu",
        probe=ProbeConfig(),
        options={"adversarial": ADVERSARIAL} if "adversarial" in suites else {},
    )
    evaluate_run(run, request)
    return submit(str(run), results, results / "b.zip", True)[0]


def rebuilt(bundle: Path, out: Path, change: Callable[[Files, dict[str, Any]], None]) -> Path:
    """A bundle changed by somebody who knows the format: hashes and manifest fit again."""
    opened = open_bundle(bundle)
    files = {name: opened.read(name) for name in opened.names}
    head = {k: v for k, v in opened.manifest.items() if k not in ("files", "schema")}
    change(files, head)
    write_bundle(out, head, files)
    return out


def with_records(bundle: Path, out: Path, change: Callable[[Record], None]) -> Path:
    """A bundle all of whose records are changed alike, and its manifest with them."""

    def edit(files: Files, head: dict[str, Any]) -> None:
        records = {k: from_json(json.loads(v), k) for k, v in files.items() if "records/" in k}
        for name, record in records.items():
            change(record)
            files[name] = json.dumps(to_json(record)).encode()
        head |= manifest_of(records, "encoder.safetensors" in files)
        files[ENVIRONMENT] = json.dumps(environment_of(records)).encode()

    return rebuilt(bundle, out, edit)


def with_record(
    bundle: Path, out: Path, suite: str, change: Callable[[Record], Record | None]
) -> Path:
    """A bundle with one changed record."""

    def edit(files: Files, head: dict[str, Any]) -> None:
        name = f"records/parts/{suite}.json"
        record = from_json(open_bundle(bundle).json(name), name)
        file = out.with_suffix(".json")
        write_record(file, change(record) or record)
        files[name] = file.read_bytes()

    return rebuilt(bundle, out, edit)
