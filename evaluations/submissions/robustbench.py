"""Results as RobustBench's `model_info` files, where they were measured as RobustBench does.

The protocol is that of Croce et al. 2021 (arXiv 2010.09670) and the repository's README; the files'
form is that of `model_info/DATASET/THREAT/MODEL.json` there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_coss.analysis.numbers import failed_checks, number, problems
from robustbench_coss.errors import CossError
from robustbench_coss.files import slug, write_atomically
from robustbench_coss.records.record import Record

CLEAN = "clean"
IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 5_000}
CIFAR_SIDE = 32  # px: a budget is one of pixels as the data set has them


@dataclass(frozen=True)
class Threat:
    """A leaderboard of RobustBench.

    Attributes:
        name: its folder.
        suite: what measures it here.
        eps: by data set, the budget as RobustBench writes it; None for none.
        attack: what its conditions begin with here.
    """

    name: str
    suite: str
    eps: dict[str, str | None]
    attack: str = ""


THREATS = (
    Threat(
        "Linf",
        "adversarial",
        {"cifar10": "8/255", "cifar100": "8/255", "imagenet": "4/255"},
        "autoattack@",
    ),
    Threat("L2", "adversarial", {"cifar10": "0.5"}, "autoattack-l2@"),
    Threat("corruptions", "corruption", {"cifar10": None, "cifar100": None, "imagenet": None}),
)


def write_model_info(folder: Path, records: Sequence[Record]) -> list[Path]:
    """Write what RobustBench's leaderboards could take of one run.

    Link, name, authors, venue and reported numbers of a publication are left empty: no record
    knows them.

    Args:
        folder: files go to `DATASET/THREAT/MODEL.json` in it.
        records: all of one run.

    Returns:
        The files written.

    Raises:
        CossError: nothing was measured by RobustBench's protocol; says what is missing.
    """
    files: dict[Path, dict[str, Any]] = {}
    reasons = []
    for threat in THREATS:
        for record in (r for r in records if r.suite == threat.suite):
            reason = refuses(record, threat)
            if reason:
                reasons.append(f"{threat.name} on {record.dataset['name']}: {reason}")
            else:
                name = f"{slug(record.model['name'])}.json"
                place = folder / record.dataset["name"] / threat.name / name
                files[place] = model_info(record, threat)
    if not files:
        known = "measure the suites adversarial or corruption on cifar10, cifar100 or imagenet"
        raise CossError(f"nothing here is RobustBench's protocol: {'; '.join(reasons) or known}")
    for path, info in files.items():
        write_atomically(path, json.dumps(info, indent=2) + "\n")
    return list(files)


def refuses(record: Record, threat: Threat) -> str:
    """Why a record was not measured as a leaderboard of RobustBench asks; "" if it was."""
    data = record.dataset
    name = data["name"]
    if name not in threat.eps:
        return f"RobustBench has {', '.join(threat.eps)}"
    if data["n"] != IMAGES[name]:
        return f"{data['n']:,} images were measured and RobustBench takes {IMAGES[name]:,}"
    if name == "imagenet" and "image_list" not in data:
        return "RobustBench's 5,000 images are a fixed list; pass it with --image-list"
    if name != "imagenet" and data["size"] != CIFAR_SIDE:
        return f"it was measured at {data['size']} px and the data set has {CIFAR_SIDE}"
    if data.get("unreadable"):
        return "pictures that cannot be read were left out"
    if record.precision != "32" or record.tf32:
        return "it was measured in less than 32 bit"
    if doubts := failed_checks([record]) or problems([record]):
        return f"it is doubtful ({doubts})"
    there = {cell.condition for cell in record.cells}
    if threat.suite == "corruption":
        if record.suite_config.get("backend") != "ready-made":
            return "corruptions were made on the fly; pass the published ones by --corruption-root"
        return ""
    wanted = condition_of(threat, name)
    return "" if wanted in there else f"{wanted} was not measured (adversarial.attacks, .eps)"


def condition_of(threat: Threat, dataset: str) -> str:
    """The condition here that is RobustBench's attack."""
    return f"{threat.attack}{threat.eps[dataset]}"


def model_info(record: Record, threat: Threat) -> dict[str, Any]:
    """The content of a file; accuracies are text in percent with two decimals, as there."""
    dataset = record.dataset["name"]
    trained_on = record.model["dataset"]
    info: dict[str, Any] = {
        "link": "",
        "name": "",
        "authors": "",
        "additional_data": None if trained_on is None else trained_on != dataset,
        "number_forward_passes": 1,
        "dataset": dataset,
        "venue": "",
        "architecture": record.model["arch"],
        "eps": threat.eps[dataset],
        "clean_acc": _accuracy(record, [CLEAN]),
        "reported": "",
    }
    if threat.suite == "corruption":
        metric = next(m for m in record.metrics if m.name == "corruption_top1")
        key = "corruptions_acc_2d" if dataset == "imagenet" else "corruptions_acc"
        return info | {key: _accuracy(record, metric.conditions)}
    attacked = _accuracy(record, [condition_of(threat, dataset)])
    return info | {"autoattack_acc": attacked, "unreliable": False}


def _accuracy(record: Record, conditions: Sequence[str]) -> str:
    return f"{100 * number([record], conditions, 'correct').value:.2f}"
