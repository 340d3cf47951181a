"""Corruption errors relative to a baseline: mCE and relative mCE of ImageNet-C, from records.

After Hendrycks and Dietterich 2019 (arXiv 1903.12261), section 4. Reads records of the suite
`corruption` and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from evaluations.imagenet_c import GROUPS, NAMES, SEVERITIES, STANDARD
from robustbench_coss.errors import CossError
from robustbench_coss.records import Record

# Top-1 errors of AlexNet on ImageNet-C, each the mean over five severities, as ImageNet-C/test.py
# of github.com/hendrycks/robustness has them.
ALEXNET: dict[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
# On the clean ImageNet validation set: torchvision's AlexNet, 56.522 % top-1.
ALEXNET_CLEAN = 0.43478


@dataclass(frozen=True)
class CorruptionErrors:
    """Top-1 errors of one model, and how they compare with a baseline's.

    Attributes:
        clean: error on clean images, in [0, 1].
        by_corruption: error per corruption, mean over the severities.
        by_family: mean of these over noise, blur, weather and digital.
        ce: error per standard corruption divided by the baseline's; NaN where the baseline makes
            no error.
        mce: mean of `ce` over the corruptions where it exists; NaN if it exists nowhere.
        relative_mce: the same of (error - clean error) / (the baseline's likewise); left out are
            corruptions under which the baseline is no worse than on clean images.
    """

    clean: float
    by_corruption: Mapping[str, float]
    by_family: Mapping[str, float]
    ce: Mapping[str, float]
    mce: float
    relative_mce: float


def corruption_errors(record: Record, baseline: Record | None = None) -> CorruptionErrors:
    """mCE and relative mCE of a record.

    Args:
        record: complete, of the suite `corruption`.
        baseline: what errors are divided by; None takes the published errors of AlexNet on
            ImageNet-C, which mean something for ImageNet's 1,000 classes only.

    Raises:
        CossError: a record is of another suite or lacks a standard corruption, the two are of
            different test sets or settings, or AlexNet is asked for without 1,000 classes.
    """
    clean, errors = _errors(record)
    if baseline is None:
        if record.dataset["classes"] != 1000:
            raise CossError(
                f"AlexNet's errors are of ImageNet's 1,000 classes, {record.dataset['name']} has "
                f"{record.dataset['classes']}; pass a record of this data set as baseline"
            )
        base_clean, base = ALEXNET_CLEAN, ALEXNET
    else:
        for what, mine, other in (
            ("test sets", record.dataset["fingerprint"], baseline.dataset["fingerprint"]),
            ("settings", record.suite_config, baseline.suite_config),
        ):
            if mine != other:
                raise CossError(
                    f"record and baseline were measured with different {what}; "
                    "measure both alike with `coss-bench eval`"
                )
        base_clean, base = _errors(baseline)
    standard = [name for family in STANDARD for name in GROUPS[family]]
    ce = {name: _ratio(errors[name], base[name]) for name in standard}
    relative = [_ratio(errors[name] - clean, base[name] - base_clean) for name in standard]
    return CorruptionErrors(
        clean=clean,
        by_corruption=errors,
        by_family={f: _mean([errors[name] for name in GROUPS[f]]) for f in STANDARD},
        ce=ce,
        mce=_mean(list(ce.values())),
        relative_mce=_mean(relative),
    )


def _errors(record: Record) -> tuple[float, dict[str, float]]:
    """Clean error, and errors per corruption that is in the record."""
    if record.suite != "corruption":
        raise CossError(f"a record of the suite corruption is needed, this is of {record.suite!r}")
    errors = {}
    for name in NAMES:
        try:
            columns = [record.column(f"{name}@{s}", "correct") for s in SEVERITIES]
        except KeyError:
            continue
        errors[name] = 1 - _mean([float(column.mean()) for column in columns])
    missing = [name for family in STANDARD for name in GROUPS[family] if name not in errors]
    if missing:
        raise CossError(
            f"the record of {record.model['name']} lacks {missing[0]}; "
            "finish it with `coss-bench eval`"
        )
    return 1 - float(record.column("clean", "correct").mean()), errors


def _ratio(error: float, base: float) -> float:
    return error / base if base > 0 else math.nan


def _mean(values: list[float]) -> float:
    """Mean of what is not NaN; NaN if nothing is left."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
