"""Synthetic records with known accuracies, shaped as the suites write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from robustbench_coss.files import sha256_of
from robustbench_coss.records.columns import Column
from robustbench_coss.records.record import (
    Axis,
    Cell,
    Check,
    Metric,
    Record,
    record_path,
    write_record,
)


def exactly(share: float, n: int, start: int = 0) -> Column:
    """[n] bool of which round(share * n) are true, from image `start` on, wrapping round."""
    hits = np.zeros(n, bool)
    hits[: round(share * n)] = True
    return np.roll(hits, start)


def record(
    cells: list[Cell],
    metrics: list[Metric],
    *,
    suite: str = "clean",
    axis: Axis | None = None,
    name: str | None = None,
    method: str = "byol",
    seed: int = 0,
    width: float = 0.25,
    classes: int = 10,
    dataset: str = "parts",
    checks: list[Check] | None = None,
    config: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    created: str = "2026-01-02T03:04:05Z",
) -> Record:
    """A complete record around some cells."""
    n = next(iter(cells[0].outcomes.values())).size
    name = name or f"{method}-s{seed}"
    return Record(
        suite=suite,
        suite_version=1,
        suite_config=config or {},
        model={
            "name": name,
            "checkpoint_sha256": sha256_of([name, method, seed]),
            "method": method,
            "arch": "rf29_resnet18",
            "width": width,
            "parameters": 700_000,
            "encoder": "online",
            "dataset": "parts",
            "training": training
            if training and "recipe" in training
            else {"seed": seed, "epochs": 20, "batch_size": 128} | (training or {}),
            "probe": {
                "key": sha256_of([name, "probe"]),
                "checkpoint_sha256": sha256_of([name, method, seed]),
                "dataset": dataset,
                "settings": {"kind": "logistic", "max_train": None},
                "n_train": 5000,
                "train_top1": 0.8 + seed / 1000,
                "validation_top1": 0.7 + seed / 1000,
            },
        },
        dataset={
            "name": dataset,
            "role": "test",
            "fingerprint": sha256_of(dataset),
            "size": 32,
            "classes": classes,
            "n": n,
            "limit": None,
        },
        seed=0,
        versions={"python": "3.11"},
        device="CPU",
        index=np.arange(n, dtype=np.int32),
        label=(np.arange(n) % classes).astype(np.int32),
        key="0" * 64,
        metrics=metrics,
        axis=axis or Axis("condition"),
        cells=cells,
        checks=checks or [],
        created=created,
        complete=True,
    )


def clean(share: float, n: int = 200, **options: Any) -> Record:
    """Clean record: top-1 `share`, top-5 always right, kNN always wrong."""
    outcomes = {"correct": exactly(share, n), "top5": exactly(1, n), "knn": exactly(0, n)}
    metrics = [
        Metric("clean_top1", "Top-1", "correct", ("clean",)),
        Metric("clean_top5", "Top-5", "top5", ("clean",), headline=False),
        Metric("clean_knn", "kNN", "knn", ("clean",)),
    ]
    return record([Cell("clean", "", 0.0, outcomes)], metrics, **options)


def control(
    share: float, n: int = 200, *, arch: str = "", width: float = 1.0, seed: int = 0, **options: Any
) -> Record:
    """Clean record of raw pixels, or of a drawn network where an architecture is named."""
    name = f"untrained-{arch}-x{width:g}" if arch else "pixels"
    made = clean(share, n, name=name, seed=seed, **options)
    drawn = {"arch": arch or "pixels", "width": width, "training": {"seed": seed} if arch else {}}
    kept = ("name", "checkpoint_sha256", "parameters", "probe")
    made.model = {
        **{key: made.model[key] for key in kept},
        "method": None,
        "dataset": None,
        "encoder": None,
        "control": "untrained" if arch else "pixels",
        **drawn,
    }
    return made


def save(results: Path, *records: Record) -> None:
    """Write records where `coss-bench eval` would."""
    for r in records:
        sha256 = r.model["checkpoint_sha256"]
        path = record_path(results, r.model["name"], sha256, r.dataset["name"], r.suite)
        write_record(path, r)


def all_suites(
    results: Path, methods: tuple[str, ...] = ("byol", "co-byol"), seeds: int = 5, n: int = 400
) -> None:
    """Records of all six suites with plausible curves, the first method the least robust."""
    for k, method in enumerate(methods):
        for seed in range(seeds):
            draw = np.random.default_rng([k, seed])
            top = 0.71 + 0.012 * k + 0.008 * draw.standard_normal()
            save(results, *_model_records(method, seed, top, 1 + 0.6 * k, n, draw))


def _model_records(
    method: str, seed: int, top: float, robust: float, n: int, draw: np.random.Generator
) -> list[Record]:
    ability = draw.standard_normal(n)  # hard images stay hard under every condition
    cut = float(np.quantile(ability, 1 - top))

    def correct(damage: float) -> dict[str, Column]:
        """Right where ability exceeds what the disturbance demands, else right by guessing."""
        hard = ability + 0.15 * draw.standard_normal(n) > cut + damage / robust
        return {"correct": hard | (draw.random(n) < 0.1)}

    def numbers(mean: float, sd: float) -> Column:
        return draw.normal(mean, sd, n).astype(np.float32)

    def build(suite: str, axis: Axis, cells: list[Cell], metrics: list[Metric]) -> Record:
        checks = [Check("accuracy falls with epsilon", True, "monotone")]
        if suite == "adversarial" and method == "byol" and seed == 0:
            checks = [Check("more steps do not help", False, "20 steps 3.1 % above 10 steps")]
        return record(
            cells, metrics, suite=suite, axis=axis, method=method, seed=seed, checks=checks
        )

    reference = Cell("clean", "", 0.0, correct(0))
    right = correct(0)
    sure = np.clip(40 * np.abs(ability - cut), 0, 127).astype(np.int8)
    whole = Cell(
        "clean",
        "",
        0.0,
        {
            **right,
            "top5": exactly(0.97, n),
            "knn": correct(0.1)["correct"],
            "confidence": sure,
            "true_class": np.where(right["correct"], sure, -sure).astype(np.int8),
            "other_squares": np.zeros(n, np.int8),
        },
    )
    records = [
        build(
            "clean",
            Axis("condition"),
            [whole],
            [
                Metric("clean_top1", "Top-1", "correct", ("clean",)),
                Metric("clean_top5", "Top-5", "top5", ("clean",), headline=False),
                Metric("clean_knn", "kNN", "knn", ("clean",)),
            ],
        )
    ]

    families = {
        "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
        "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
        "weather": ("snow", "frost", "fog", "brightness"),
        "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
        "extra": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
    }
    cells = [reference]
    for i, (family, corruptions) in enumerate(families.items()):
        for corruption in corruptions:
            cells += [
                Cell(
                    f"{corruption}@{s}",
                    family,
                    s,
                    correct(0.2 * s * (1.6 - 0.2 * i)),
                    kind=corruption,
                )
                for s in range(1, 6)
            ]
    standard = tuple(c.condition for c in cells if c.group not in ("", "extra"))
    noise = tuple(c.condition for c in cells if c.group == "noise")
    records.append(
        build(
            "corruption",
            Axis("severity"),
            cells,
            [
                Metric("corruption_top1", "Corruption top-1", "correct", standard),
                Metric("noise_top1", "Noise top-1", "correct", noise, headline=False),
            ],
        )
    )

    groups = ("random-zero", "random-drop", "block-zero", "block-drop", "noise", "input-patches")
    cells = [reference]
    for i, group in enumerate(groups):
        levels = (0.25, 0.5, 1.0, 2.0) if group == "noise" else (0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
        cells += [Cell(f"{group}@{v}", group, v, correct((1 + 0.2 * i) * v * v)) for v in levels]
    dropped = tuple(c.condition for c in cells if c.group == "random-drop")
    records.append(
        build(
            "occlusion",
            Axis("masked share (noise: sigma in channel s.d.)"),
            cells,
            [
                Metric("mask_top1", "Masked top-1", "correct", dropped),
            ],
        )
    )

    cells = [reference]
    for group, strength in (("fgsm", 0.6), ("pgd-linf", 0.8), ("noise-linf", 0.03)):
        cells += [
            Cell(f"{group}@{e}/255", group, e, correct(strength * e))
            for e in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
        ]
    cells += [Cell(f"pgd-l2@{e}", "pgd-l2", e, correct(4 * e)) for e in (0.05, 0.1, 0.25, 0.5, 1.0)]
    cells.append(Cell("unbounded", "sanity", 255.0, {"correct": exactly(0, n)}))
    records.append(
        build(
            "adversarial",
            Axis("epsilon (/255; L2: norm)", column_label="robust top-1 (%)"),
            cells,
            [
                Metric("pgd_linf_1", "PGD ℓ∞ 1/255", "correct", ("pgd-linf@1.0/255",)),
                Metric("fgsm_1", "FGSM 1/255", "correct", ("fgsm@1.0/255",), headline=False),
            ],
        )
    )

    cells = [Cell("full", "", 1.0, reference.outcomes)]
    for group, strength in (("centre", 1.0), ("random", 1.4)):
        cells += [
            Cell(
                f"{group}@{a}",
                group,
                a,
                {
                    **correct(strength * (1 / a) ** 0.4 - strength),
                    "agrees": exactly(a**0.3, n),
                    "cosine": numbers(a**0.2, 0.05),
                },
            )
            for a in (0.75, 0.5, 0.35, 0.25, 0.14, 0.08, 0.05)
        ]
    records.append(
        build(
            "crop",
            Axis("crop area (share of the image)"),
            cells,
            [
                Metric("crop_random_25", "Random crop 25 %", "correct", ("random@0.25",)),
                Metric(
                    "crop_cosine_25", "Cosine at 25 %", "cosine", ("random@0.25",), percent=False
                ),
            ],
        )
    )

    cells = [Cell("clean", "", 1.0, reference.outcomes)]
    cells += [
        Cell(f"pool@{k}", "pooled", k / 64, correct(0.9 * (64 / k) ** 0.3 - 0.9))
        for k in (1, 2, 4, 8, 16, 32)
    ]
    cells.append(
        Cell(
            "similarity",
            "similarity",
            0.0,
            {
                "within": numbers(0.5 + 0.1 * robust, 0.05),
                "across": numbers(0.1, 0.05),
                "local_global": numbers(0.6 + 0.1 * robust, 0.05),
                "effective_rank": numbers(20 / robust, 2),
            },
        )
    )
    records.append(
        build(
            "redundancy",
            Axis("share of local representations pooled"),
            cells,
            [
                Metric("pool_1", "One local, top-1", "correct", ("pool@1",)),
                Metric("within", "Within-image cosine", "within", ("similarity",), "", False),
                Metric(
                    "across", "Across-image cosine", "across", ("similarity",), "", False, False
                ),
                Metric(
                    "local_global",
                    "Local–global cosine",
                    "local_global",
                    ("similarity",),
                    "",
                    False,
                    False,
                ),
                Metric(
                    "effective_rank",
                    "Effective rank",
                    "effective_rank",
                    ("similarity",),
                    "",
                    False,
                    False,
                ),
            ],
        )
    )
    return records
