"""Corruption errors against a baseline, in every output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import simulate
from helpers.table_values import value

from robustbench_coss.analysis.corruption_error import ALEXNET
from robustbench_coss.analysis.numbers import load_table
from robustbench_coss.errors import CossError
from robustbench_coss.records.record import Cell, Metric, Record
from robustbench_coss.statistics.intervals import combine_seeds
from robustbench_coss.tables.leaderboard import (
    to_csv,
    to_markdown,
)
from robustbench_coss.tables.paper import paper_table


def corruptions(error: float, clean: float = 0.1, **options: Any) -> Record:
    """A record of the corruption suite with one error everywhere but on fog, where it is double."""
    cells = [Cell("clean", "", 0.0, {"correct": simulate.exactly(1 - clean, 200)})]
    for name in ALEXNET:
        share = 1 - error * (2 if name == "fog" else 1)
        column = {"correct": simulate.exactly(share, 200)}
        cells += [Cell(f"{name}@{s}", "any", s, column, kind=name) for s in range(1, 6)]
    metric = Metric("corruption_top1", "Corruption top-1", "correct", ("fog@1",))
    settings = {"config": {"backend": "fast", "constants": "imagenet-c"}}
    return simulate.record(cells, [metric], suite="corruption", **(settings | options))


def test_mce_against_a_measured_model_is_in_every_output(tmp_path: Path) -> None:
    simulate.save(tmp_path, corruptions(0.3), corruptions(0.15, 0.05, method="co-byol"))
    table = load_table(tmp_path, "byol-s0")
    mce, relative = (value(table, "CO-BYOL", f"corruption_{k}") for k in ("mce", "rmce"))
    assert mce["value"] == pytest.approx(0.5)
    assert relative["value"] == pytest.approx((14 * 0.10 / 0.2 + 0.25 / 0.5) / 15)
    assert (mce["interval"], mce["seeds"], mce["baseline"]) == ("bootstrap", 1, "byol-s0")
    assert mce["low"] < 0.5 < mce["high"]
    assert value(table, "BYOL", "corruption_mce")["value"] == pytest.approx(1)
    markdown = to_markdown(table)
    assert "| Corruption top-1 | mCE | Relative mCE |" in markdown
    assert "| **50.0** [" in markdown  # lower is better
    assert "corruption errors divided by those of byol-s0" in markdown
    heads = r"{top-1} & {mCE} & {\shortstack{Relative\\mCE}} \\"
    assert heads in paper_table(tmp_path, baseline="byol-s0").to_latex()
    assert "corruption_rmce" in to_csv(table)
    assert "mCE" not in to_markdown(load_table(tmp_path))


def test_mce_of_seeds_has_students_interval_and_a_baseline_of_seeds_is_their_mean(
    tmp_path: Path,
) -> None:
    errors = (0.2, 0.25, 0.36)
    simulate.save(
        tmp_path,
        *(corruptions(e, seed=s) for s, e in enumerate(errors)),
        *(corruptions(e, method="co-byol", seed=s) for s, e in enumerate((0.3, 0.5))),
    )
    with pytest.warns(UserWarning, match="mCE is not to be relied on: the baseline CO-BYOL"):
        table = load_table(tmp_path, "co-byol rf29_resnet18 0.25")
    line = value(table, "BYOL", "corruption_mce")
    mean, sd, _ = combine_seeds([e / 0.4 for e in errors])
    assert (line["value"], line["sd"]) == pytest.approx((mean, sd))
    # Seeds 0 and 1 coincide: what errors e and base errors b change the ratio by, e/.4 - R b/.4.
    changes = [(e - mean * b) / 0.4 for e, b in ((0.2, 0.3), (0.25, 0.5))]
    seeds, _, ends = combine_seeds(changes)
    assert line["high"] - mean == pytest.approx(ends[1] - seeds, rel=0.01)  # and a little of images
    assert line["low"] == 0
    itself = value(table, "CO-BYOL", "corruption_mce")
    assert (itself["value"], itself["low"], itself["high"]) == pytest.approx((1, 1, 1))


def test_alexnet_is_the_baseline_of_imagenet_and_other_data_sets_are_named(
    tmp_path: Path, bench: Callable[..., Any]
) -> None:
    simulate.save(
        tmp_path, corruptions(0.3, dataset="imagenet", classes=1000), corruptions(0.2, seed=1)
    )
    with pytest.warns(UserWarning, match="no mCE on parts") as warned:
        outcome = bench("leaderboard", "--results", tmp_path, "--baseline", "AlexNet")
    assert outcome.code == 0
    assert [str(w.message) for w in warned] == [
        "no mCE on parts, 32 px for BYOL · rf29_resnet18 ×0.25: AlexNet's errors are of "
        "ImageNet's 1,000 classes, not of parts's 10; take a model measured on parts as baseline"
    ]
    line = value(pd.read_csv(tmp_path / "leaderboard.csv"), "BYOL", "corruption_mce")
    expected = np.mean([(0.6 if name == "fog" else 0.3) / e for name, e in ALEXNET.items()])
    assert line["value"] == pytest.approx(expected)
    assert line["test_set"] == "imagenet, 32 px"
    assert "mCE" in outcome.out


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ("alexnet", r"no mCE with baseline 'alexnet'; parts, 32 px: AlexNet's errors are of"),
        ("byol-s7", r"no model 'byol-s7' was measured; did you mean byol-s0"),
        ("bare", r"no mCE with baseline 'bare'; .*the baseline bare has no record of corruptions"),
    ],
)
def test_a_baseline_that_fits_nothing_is_explained_in_one_line(
    tmp_path: Path, baseline: str, message: str
) -> None:
    simulate.save(tmp_path, corruptions(0.3), simulate.clean(0.5, method="dino", name="bare"))
    with pytest.raises(CossError, match=message) as error:
        load_table(tmp_path, baseline)
    assert "\n" not in str(error.value)


def test_a_baseline_needs_records_of_corruptions(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.5))
    with pytest.raises(CossError, match="no corruptions were measured"):
        load_table(tmp_path, "alexnet")
