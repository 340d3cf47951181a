"""What parts the numbers of a suite into columns: all that outcomes depend on but the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import simulate

from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.analysis.numbers import load_table
from robustbench_coss.records.record import Record

Change = Callable[[Record], object]
OTHER: dict[str, Change] = {
    "version": lambda r: setattr(r, "suite_version", 2),
    "settings": lambda r: r.suite_config.update(knn_bank=7),
    "precision": lambda r: setattr(r, "precision", "bf16"),
    "tf32": lambda r: setattr(r, "tf32", True),
    "compiled": lambda r: setattr(r, "compiled", True),
    "list": lambda r: r.dataset.update(image_list={"file": "x.txt", "images": "a" * 64}),
}


def pair(n: int = 200) -> tuple[Record, Record]:
    return simulate.clean(0.5), simulate.clean(0.6, n, method="dino")


@pytest.mark.parametrize("what", [*OTHER, "number of images"])
def test_what_cannot_be_compared_has_a_column_of_its_own(what: str, tmp_path: Path) -> None:
    first, other = pair(150 if what == "number of images" else 200)
    if what in OTHER:
        OTHER[what](other)
    simulate.save(tmp_path, first, other)
    assert [m.protocol for m in load_measurements(tmp_path)] == ["a", "b"]
    table = load_table(tmp_path)
    headings = set(table[table["metric"] == "clean_top1"]["heading"])
    assert headings == {"Top-1 (a)", "Top-1 (b)"}


def test_what_changes_no_outcome_parts_nothing(tmp_path: Path) -> None:
    first, other = pair()
    other.versions["torch"] = "9.9"
    other.device = "another"
    other.options["bank"] = None
    other.dataset["limit"] = 200  # as many as there are
    simulate.save(tmp_path, first, other)
    assert [m.protocol for m in load_measurements(tmp_path)] == ["", ""]


@pytest.mark.parametrize("what", ["fingerprint", "size", "role", "name"])
def test_other_images_are_another_table(what: str, tmp_path: Path) -> None:
    first, other = pair()
    values = {"fingerprint": "f" * 64, "size": 64, "role": "validation", "name": "mnist"}
    other.dataset[what] = values[what]
    simulate.save(tmp_path, first, other)
    found = load_measurements(tmp_path)
    assert len({m.test_set for m in found}) == 2
    assert len({m.test_set.slug for m in found}) == 2
    assert {m.protocol for m in found} == {""}


def test_the_latest_record_of_a_seed_counts(tmp_path: Path) -> None:
    early, late = (
        simulate.clean(share, name=f"byol-{share}", created=f"2026-01-0{day}T00:00:00Z")
        for share, day in ((0.5, 1), (0.7, 2))
    )
    for order in ((early, late), (late, early)):
        simulate.save(tmp_path, *order)
        table = load_table(tmp_path)
        (value,) = table[table["metric"] == "clean_top1"]["value"]
        assert value == pytest.approx(0.7)
