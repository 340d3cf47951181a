"""Corruption errors relative to a baseline: mCE and relative mCE of ImageNet-C, from records.

After Hendrycks and Dietterich 2019 (arXiv 1903.12261), section 4, but for relative mCE against a
measured baseline. There the paper's mean of ratios gives a corruption under which the baseline
loses .003 as much weight as one under which it loses .5, so that its noise decides; taken is the
ratio of sums, the "combined" ratio estimate that Cochran (1977, "Sampling techniques", chapter 6)
advises where single divisors are small. Against AlexNet's published errors, all of which are large,
it is the paper's. Reads records of the suite `corruption` and nothing else.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from robustbench_coss.analysis.pairing import seeds_of
from robustbench_coss.errors import CossError
from robustbench_coss.records.columns import Column
from robustbench_coss.records.record import Record
from robustbench_coss.statistics.intervals import Estimate, estimate
from robustbench_coss.statistics.ratios import LARGEST_CV, coefficient_of_variation, ratio

# Top-1 errors of AlexNet on ImageNet-C, each the mean over five severities: ALEXNET_ERR in
# imagenet.py of github.com/google-research/augmix (commit 202cf4c), which names
# hendrycks/robustness as their source; ImageNet-C/test.py there prints errors and holds none. The
# keys are the 15 standard corruptions.
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

SEVERITIES = (1, 2, 3, 4, 5)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Baseline:
    """What corruption errors are divided by.

    Attributes:
        name: for tables.
        clean: error on clean images, in [0, 1].
        errors: error per standard corruption, mean over severities.
        records: what these were found from, one per seed; none for the published ones of AlexNet.
    """

    name: str
    clean: float
    errors: Mapping[str, float]
    records: tuple[Record, ...] = ()


ALEXNET_BASELINE = Baseline("AlexNet", ALEXNET_CLEAN, ALEXNET)


@dataclass(frozen=True)
class CorruptionErrors:
    """Top-1 errors of one model, and how they compare with a baseline's.

    Attributes:
        clean: error on clean images, in [0, 1].
        by_corruption: error per corruption of the record, mean over the severities.
        by_family: mean of these over the standard corruptions of noise, blur, weather, digital.
        ce: error per standard corruption divided by the baseline's; NaN where the baseline makes
            no error.
        mce: mean of `ce` over the corruptions where it exists; NaN if it exists nowhere.
        relative_mce: sum over corruptions of error - clean error, divided by the baseline's
            likewise; against AlexNet the mean over corruptions of these ratios. NaN unless the
            baseline is worse under corruptions than on clean images.
        mce_per_image, relative_mce_per_image: [n] float64, what each image contributes: their
            means are `mce` and `relative_mce`, the baseline's errors being what they are.
    """

    clean: float
    by_corruption: Mapping[str, float]
    by_family: Mapping[str, float]
    ce: Mapping[str, float]
    mce: float
    relative_mce: float
    mce_per_image: Floats
    relative_mce_per_image: Floats


def baseline_of(name: str, records: Sequence[Record]) -> Baseline:
    """A measured baseline: errors are means over its seeds.

    Args:
        name: for tables.
        records: complete, of the suite `corruption`, one per seed of one configuration.

    Raises:
        CossError: a record is of another suite or lacks a standard corruption.
    """
    found = [_errors(record) for record in records]
    return Baseline(
        name,
        float(np.mean([plain.mean() for plain, _ in found])),
        {c: float(np.mean([of[c].mean() for _, of in found])) for c in ALEXNET},
        tuple(records),
    )


def corruption_errors(record: Record, baseline: Baseline) -> CorruptionErrors:
    """mCE and relative mCE of a record.

    Args:
        record: complete, of the suite `corruption`.
        baseline: `ALEXNET_BASELINE`, which means something for ImageNet-C only, or `baseline_of`
            records of the same test images with the same settings.

    Raises:
        CossError: a record is of another suite or lacks a standard corruption, or the two cannot
            be compared.
    """
    plain, per_image = _errors(record)
    if baseline.records:
        _check_same_protocol(record, baseline.records[0])
    else:
        _check_imagenet_c(record)
    errors = {name: float(error.mean()) for name, error in per_image.items()}
    full, weights = _divisors(baseline)
    nothing = np.full(record.index.size, math.nan)
    mce = np.mean([per_image[c] / full[c] for c in full], axis=0) if full else nothing
    relative = _excess(plain, per_image, weights) if weights else nothing
    return CorruptionErrors(
        clean=float(plain.mean()),
        by_corruption=errors,
        by_family=_by_family(record, errors),
        ce={c: errors[c] / full[c] if c in full else math.nan for c in ALEXNET},
        mce=float(np.mean(mce)),
        relative_mce=float(np.mean(relative)),
        mce_per_image=mce,
        relative_mce_per_image=relative,
    )


def corruption_estimates(
    records: Sequence[Record], baseline: Baseline
) -> tuple[Estimate, Estimate]:
    """mCE and relative mCE of a configuration, each with its interval.

    Against a measured baseline the interval covers the draw of the images for both, and of the
    seeds of either that has several (`ratios.ratio`); AlexNet's published errors are constants.

    Warns:
        UserWarning: a divisor is so small that the interval is not to be relied on.

    Args, Raises: as `corruption_errors`, with one record per seed.
    """
    found = [corruption_errors(record, baseline) for record in records]
    tops = [e.mce_per_image for e in found], [e.relative_mce_per_image for e in found]
    if not baseline.records:
        mce, relative = (estimate([[run] for run in runs]) for runs in tops)
        return _not_below_0(mce), relative
    full, weights = _divisors(baseline)
    mine = {c: float(np.mean([e.by_corruption[c] for e in found])) for c in full}
    shares, excesses = [], []
    for plain, per_image in map(_errors, baseline.records):
        parts = [mine[c] / full[c] ** 2 * per_image[c] for c in full]
        shares.append(np.mean(parts, axis=0) if parts else np.full(plain.size, math.nan))
        excesses.append(_excess(plain, per_image, weights) if weights else shares[-1] * math.nan)
    _warn_of_small_divisors(baseline, full, excesses)
    level = float(np.mean([e.relative_mce for e in found]))
    seeds = [seeds_of(records), seeds_of(baseline.records)]
    return (
        _not_below_0(ratio(tops[0], shares, seeds)),
        ratio(tops[1], [level * run for run in excesses], seeds),
    )


def _not_below_0(mce: Estimate) -> Estimate:
    """A ratio of errors with its interval cut at 0, which one of excess errors can fall below."""
    return replace(mce, low=max(mce.low, 0.0))  # NaN stays


def _divisors(baseline: Baseline) -> tuple[dict[str, float], dict[str, float]]:
    """The baseline's errors where it makes any, and what excess errors are multiplied by."""
    full = {c: baseline.errors[c] for c in ALEXNET if baseline.errors[c] > 0}
    excess = {c: baseline.errors[c] - baseline.clean for c in ALEXNET}
    if not baseline.records:
        return full, {c: 1 / (len(excess) * more) for c, more in excess.items()}
    total = sum(excess.values())
    return full, dict.fromkeys(excess, 1 / total) if total > 0 else {}


def _excess(plain: Floats, per_image: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    """[n] errors under corruptions less those on clean images, weighted and summed."""
    return np.asarray(np.sum([w * (per_image[c] - plain) for c, w in weights.items()], axis=0))


def _warn_of_small_divisors(
    baseline: Baseline, full: Mapping[str, float], excesses: Sequence[Floats]
) -> None:
    errors = [_errors(record)[1] for record in baseline.records]
    few = [c for c in full if coefficient_of_variation([e[c] for e in errors]) > LARGEST_CV]
    others = f" and {len(few) - 1} more" if len(few) > 1 else ""
    small = {
        "mCE": few and f"makes few errors under {few[0]}{others}",
        "relative mCE": not coefficient_of_variation(excesses) <= LARGEST_CV  # or NaN
        and "loses little under corruptions",
    }
    for what, why in small.items():
        if why:
            warnings.warn(
                f"{what} is not to be relied on: the baseline {baseline.name} {why}; take one that "
                "makes more errors, or more test images",
                stacklevel=2,
            )


def _check_imagenet_c(record: Record) -> None:
    """AlexNet's errors are of one benchmark: ImageNet's classes, ImageNet-C's strengths."""
    data, settings = record.dataset, record.suite_config
    if data["name"] != "imagenet" or data["classes"] != 1000:
        raise CossError(
            f"AlexNet's errors are of ImageNet's 1,000 classes, not of {data['name']}'s "
            f"{data['classes']}; take a model measured on {data['name']} as baseline"
        )
    # Ready-made pictures of ImageNet are those of ImageNet-C.
    of_imagenet_c = settings.get("constants") in ("imagenet-c", "imagenet-c-script")
    if settings.get("backend") != "ready-made" and not of_imagenet_c:
        raise CossError(
            f"AlexNet's errors are of the constants imagenet-c, not {settings.get('constants')}; "
            "measure with those or take a measured model as baseline"
        )


def _check_same_protocol(record: Record, other: Record) -> None:
    for what, mine, theirs in (
        ("test sets", record.dataset["fingerprint"], other.dataset["fingerprint"]),
        ("image sizes", record.dataset["size"], other.dataset["size"]),
        ("settings", record.suite_config, other.suite_config),
        ("precisions", record.arithmetic(), other.arithmetic()),
        ("versions of the suite", record.suite_version, other.suite_version),
        ("test images", record.index.tolist(), other.index.tolist()),
    ):
        if mine != theirs:
            raise CossError(
                f"record and baseline were measured with different {what}; "
                "measure both alike with `coss-bench eval`"
            )


def _errors(record: Record) -> tuple[Floats, dict[str, Floats]]:
    """[n] errors on clean images, and [n] errors per corruption, each the mean over severities.

    Corruptions that were not measured at all severities are left out; none of the standard ones
    may be.
    """
    if record.suite != "corruption":
        raise CossError(f"a record of the suite corruption is needed, this is of {record.suite!r}")
    measured: dict[str, dict[float, Column]] = {}
    for cell in record.cells:
        measured.setdefault(cell.kind, {})[cell.level] = cell.outcomes["correct"]
    (clean,) = measured.pop("").values()
    found = {}
    for name, columns in measured.items():
        if set(SEVERITIES) <= columns.keys():
            used = np.stack([columns[severity] for severity in SEVERITIES])
            found[name] = 1 - np.mean(used.astype(np.float64), axis=0)
    if missing := [name for name in ALEXNET if name not in found]:
        raise CossError(
            f"the record of {record.model['name']} lacks {missing[0]}; "
            "finish it with `coss-bench eval`"
        )
    return 1 - clean.astype(np.float64), found


def _by_family(record: Record, errors: Mapping[str, float]) -> dict[str, float]:
    members: dict[str, list[float]] = {}
    for cell in record.cells:
        if cell.kind in ALEXNET and cell.level == 1:
            members.setdefault(cell.group, []).append(errors[cell.kind])
    return {family: float(np.mean(values)) for family, values in members.items()}
