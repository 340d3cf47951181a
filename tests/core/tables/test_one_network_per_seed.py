"""A row's numbers of one seed are of one network: that which was measured last."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from helpers import simulate

from robustbench_coss.analysis.comparison import compare
from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.analysis.numbers import load_table
from robustbench_coss.pages.site.data import load_site
from robustbench_coss.records.record import Axis, Cell, Metric, Record

OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
LEFT_OUT = r"seed 0, was measured last with the weights of byol-s0 \(abababab\); dark of earlier"


def dark(share: float, *, n: int = 200, **options) -> Record:  # type: ignore[no-untyped-def]
    cell = Cell("x", "g", 1.0, {"correct": simulate.exactly(share, n)})
    metric = Metric("dark_top1", "Dark top-1", "correct", ("x",))
    return simulate.record([cell], [metric], suite="dark", axis=Axis("light"), **options)


def anew(record: Record) -> Record:
    """As after another training under the same name."""
    record.model["checkpoint_sha256"] = "ab" * 32
    return record


def numbers(results: Path, metric: str) -> list[tuple[float, int]]:
    lines = load_table(results).query("metric == @metric")
    return [(round(v, 9), int(k)) for v, k in zip(lines["value"], lines["seeds"], strict=True)]


def test_what_only_earlier_weights_were_measured_for_is_left_out_and_said(tmp_path: Path) -> None:
    for seed, share in enumerate((0.1, 0.3, 0.5)):
        about = {"seed": seed, "created": OLD}
        simulate.save(tmp_path, simulate.clean(0.6, **about), dark(share, **about))
    assert numbers(tmp_path, "dark_top1") == [(0.3, 3)]
    simulate.save(tmp_path, anew(simulate.clean(0.9, created=NEW)))
    with pytest.warns(UserWarning, match=LEFT_OUT):
        assert numbers(tmp_path, "dark_top1") == [(0.4, 2)]  # seeds 1 and 2
    with pytest.warns(UserWarning, match=LEFT_OUT):
        assert numbers(tmp_path, "clean_top1") == [(0.7, 3)]
    with pytest.warns(UserWarning, match=LEFT_OUT):
        (board,) = load_site(tmp_path).boards
    assert [round(cell.value or 0, 9) for cell in board.rows[0].numbers] == [0.7, 0, 0.4]
    simulate.save(tmp_path, anew(dark(0.9, created=NEW)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert numbers(tmp_path, "dark_top1") == [(round(1.7 / 3, 9), 3)]


def test_two_models_are_compared_in_what_their_networks_of_today_were_measured_for(
    tmp_path: Path,
) -> None:
    for method in ("byol", "dino"):
        about = {"method": method, "created": OLD}
        simulate.save(tmp_path, simulate.clean(0.6, **about), dark(0.3, **about))
    assert set(compare(tmp_path, "byol", "dino").table["metric"]) >= {"clean_top1", "dark_top1"}
    simulate.save(tmp_path, anew(simulate.clean(0.9, created=NEW)))
    with pytest.warns(UserWarning, match=LEFT_OUT):
        table = compare(tmp_path, "byol", "dino").table.set_index("metric")
    assert "dark_top1" not in table.index
    assert table.loc["clean_top1", "difference"] == pytest.approx(0.3)


def test_another_protocol_of_earlier_weights_is_no_column_of_the_row(tmp_path: Path) -> None:
    simulate.save(tmp_path / "r", dark(0.3, created=OLD))
    simulate.save(tmp_path / "r", anew(dark(0.8, n=100, created=NEW)))
    with pytest.warns(UserWarning, match=LEFT_OUT):
        (one,) = load_measurements(tmp_path / "r")
    assert (one.protocol, one.records[0].index.size) == ("", 100)


@pytest.mark.parametrize("latest", ["clean", "dark"])
def test_the_network_is_that_of_the_latest_record_of_any_suite(latest: str, tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.6, created=OLD), dark(0.3, created=OLD))
    made = {"clean": simulate.clean(0.9, created=NEW), "dark": dark(0.9, created=NEW)}
    simulate.save(tmp_path, anew(made[latest]))
    with pytest.warns(UserWarning, match="of earlier weights alone"):
        assert [m.suite for m in load_measurements(tmp_path)] == [latest]


def test_the_same_weights_under_two_names_are_one_network(tmp_path: Path) -> None:
    copy = dark(0.3, name="copy", created=NEW)
    one = simulate.clean(0.6, created=OLD)
    copy.model["checkpoint_sha256"] = one.model["checkpoint_sha256"]
    simulate.save(tmp_path, one, copy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert {m.suite for m in load_measurements(tmp_path)} == {"clean", "dark"}
