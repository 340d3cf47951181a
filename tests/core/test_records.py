"""Records survive the disk unchanged, and damaged ones are refused in one line."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import simulate
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robustbench_coss.errors import CossError
from robustbench_coss.records.record import (
    Cell,
    Metric,
    Record,
    find_records,
    from_json,
    read_record,
    record_path,
    to_json,
    write_record,
)

DTYPES = ("bool", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
columns = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(np.dtype(dtype), st.integers(1, 40))
)


def assert_same_outcomes(a: Record, b: Record) -> None:
    assert [c.condition for c in a.cells] == [c.condition for c in b.cells]
    for one, other in zip(a.cells, b.cells, strict=True):
        assert (one.group, one.level) == (other.group, other.level)
        assert one.outcomes.keys() == other.outcomes.keys()
        for name, column in one.outcomes.items():
            assert column.dtype == other.outcomes[name].dtype
            np.testing.assert_array_equal(column, other.outcomes[name])


@given(columns)
def test_every_column_type_survives_the_round_trip_through_json(column: Any) -> None:
    before = simulate.record([Cell("a", "g", 0.5, {"x": column})], [Metric("m", "M", "x", ("a",))])
    after = from_json(json.loads(json.dumps(to_json(before))), "r.json")
    assert_same_outcomes(before, after)
    assert after.metrics == before.metrics
    assert after.axis == before.axis
    assert after.digest() == before.digest()


def test_a_written_record_reads_back_equal(tmp_path: Path) -> None:
    before = simulate.clean(0.5, n=13)
    write_record(tmp_path / "clean.json", before)
    after = read_record(tmp_path / "clean.json")
    assert_same_outcomes(before, after)
    np.testing.assert_array_equal(after.index, before.index)
    np.testing.assert_array_equal(after.label, before.label)
    assert (after.model, after.dataset, after.key) == (before.model, before.dataset, before.key)


def test_a_record_file_is_plain_json_with_one_cell_per_line(tmp_path: Path) -> None:
    columns = {"correct": simulate.exactly(0.5, 8)}
    cells = [Cell(f"noise@{s}", "noise", s, columns) for s in range(3)]
    write_record(tmp_path / "r.json", simulate.record(cells, []))
    text = (tmp_path / "r.json").read_text()
    assert len(json.loads(text)["cells"]) == 3
    assert sum('"condition":' in line for line in text.splitlines()) == 3


def test_writing_the_same_record_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        write_record(tmp_path / name, simulate.clean(0.7))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_the_digest_ignores_timing_and_nothing_else() -> None:
    digest = simulate.clean(0.5).digest()
    later = simulate.clean(0.5, created="2027-01-01T00:00:00Z")
    later.cells[0].wall_time_s = 99.0
    assert later.digest() == digest
    changed = simulate.clean(0.5)
    changed.cells[0].outcomes["correct"] = np.roll(changed.cells[0].outcomes["correct"], 1)
    assert changed.digest() != digest
    other_device = simulate.clean(0.5)
    other_device.device = "another"
    assert other_device.digest() != digest


def test_a_metric_per_sample_is_the_mean_over_its_conditions() -> None:
    cells = [
        Cell("a", "g", 1, {"correct": np.array([True, True, False])}),
        Cell("b", "g", 2, {"correct": np.array([True, False, False])}),
        Cell("c", "g", 3, {"correct": np.array([True, True, True])}),
    ]
    metric = Metric("m", "M", "correct", ("a", "b"))
    per_sample = simulate.record(cells, [metric]).per_sample(metric)
    np.testing.assert_array_equal(per_sample, [1.0, 0.5, 0.0])


def test_an_unknown_condition_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        simulate.clean(0.5).column("night", "correct")


def damage_truncate(content: str) -> str:
    return content[: len(content) // 2]


def damage_empty(content: str) -> str:
    return ""


def damage_list(content: str) -> str:
    return "[1, 2]"


def damage_missing_field(content: str) -> str:
    fields = json.loads(content)
    del fields["model"]
    return json.dumps(fields)


def damage_unknown_field(content: str) -> str:
    return json.dumps(json.loads(content) | {"surprise": 1})


def damage_base64(content: str) -> str:
    fields = json.loads(content)
    fields["index"]["data"] = "§" + fields["index"]["data"]
    return json.dumps(fields)


def damage_compression(content: str) -> str:
    fields = json.loads(content)
    fields["label"]["data"] = base64.b64encode(b"not compressed").decode()
    return json.dumps(fields)


def damage_length(content: str) -> str:
    fields = json.loads(content)
    fields["cells"][0]["outcomes"]["correct"]["n"] += 100
    return json.dumps(fields)


def damage_outcomes(content: str) -> str:
    fields = json.loads(content)
    fields["cells"][0]["outcomes"] = []
    return json.dumps(fields)


def damage_dtype(content: str) -> str:
    fields = json.loads(content)
    fields["index"]["dtype"] = "object"
    return json.dumps(fields)


@pytest.mark.parametrize(
    "damage",
    [
        damage_truncate,
        damage_empty,
        damage_list,
        damage_missing_field,
        damage_unknown_field,
        damage_base64,
        damage_compression,
        damage_length,
        damage_outcomes,
        damage_dtype,
    ],
)
def test_a_damaged_record_is_refused_in_one_line_with_a_remedy(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "clean.json"
    write_record(path, simulate.clean(0.5))
    path.write_text(damage(path.read_text()))
    with pytest.raises(CossError, match=r"damaged.*delete it and run `coss-bench eval`") as error:
        read_record(path)
    assert "\n" not in str(error.value)


def test_a_column_that_inflates_beyond_its_declared_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.json"
    write_record(path, simulate.clean(0.5))
    fields = json.loads(path.read_text())
    fields["index"]["data"] = base64.b64encode(zlib.compress(bytes(10_000_000), 9)).decode()
    path.write_text(json.dumps(fields))
    with pytest.raises(CossError, match="damaged"):
        read_record(path)


@pytest.mark.parametrize("left", [0, 12, -4])
def test_a_column_whose_compressed_data_are_cut_off_is_refused(tmp_path: Path, left: int) -> None:
    path = tmp_path / "r.json"
    write_record(path, simulate.clean(0.5))
    fields = json.loads(path.read_text())
    fields["index"]["data"] = fields["index"]["data"][
        :left
    ]  # -4: all values are there, the checksum is not
    path.write_text(json.dumps(fields))
    with pytest.raises(CossError, match="damaged"):
        read_record(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CossError, match="damaged"):
        read_record(tmp_path / "r.json")


def test_a_record_of_the_first_schema_is_read_as_one_without_problems(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_record(path, simulate.clean(0.5))
    content = json.loads(path.read_text()) | {"schema": 1}
    del content["extra"], content["about"], content["options"]
    for cell in content["cells"]:
        del cell["problem"]
    path.write_text(json.dumps(content))
    migrated = read_record(path)
    assert migrated.digest() == simulate.clean(0.5).digest()
    assert {cell.problem for cell in migrated.cells} == {""}


def test_a_record_of_another_schema_is_refused_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_record(path, simulate.clean(0.5))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    with pytest.raises(CossError, match=r"schema 99.*--force"):
        read_record(path)


def test_a_missing_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CossError, match="cannot read"):
        read_record(tmp_path / "none.json")


def test_only_complete_records_are_found_in_path_order(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.5, seed=1), simulate.clean(0.5, seed=0))
    unfinished = simulate.clean(0.5, seed=2)
    unfinished.complete = False
    simulate.save(tmp_path, unfinished)
    partial = next((tmp_path / "records").glob("*/*/clean.json")).with_name("crop.partial.json")
    partial.write_text("half")
    found = list(find_records(tmp_path))
    assert [record.model["training"]["seed"] for _, record in found] == [0, 1]
    assert [path for path, _ in found] == sorted(path for path, _ in found)


def test_a_hostile_model_name_stays_inside_the_results_folder(tmp_path: Path) -> None:
    path = record_path(tmp_path, "../../etc/<x>", "ab" * 32, "../parts", "a/b")
    assert path.resolve().is_relative_to(tmp_path.resolve())
    assert len(path.relative_to(tmp_path).parts) == 4
