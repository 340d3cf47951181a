"""Files are held to the models of a record, and the published JSON Schema is made from these."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from helpers.simulate import all_suites

from robustbench_coss.errors import CossError
from robustbench_coss.records.record import (
    find_records,
    from_json,
    read_record,
    to_json,
)
from robustbench_coss.records.schema import schema_text

PUBLISHED = ROOT / "docs" / "record-schema.json"
SCHEMA: dict[str, Any] = json.loads(PUBLISHED.read_text(encoding="utf-8"))
COMMITTED = sorted((ROOT / "results").glob("*/records/*/*/*.json"))


def test_the_published_schema_is_that_of_the_code() -> None:
    assert PUBLISHED.read_text(encoding="utf-8") == schema_text()


def test_every_field_is_described_on_one_line() -> None:
    def undescribed(schema: Any, path: str) -> Iterator[str]:
        for name, field in schema.get("properties", {}).items():
            referred = SCHEMA["$defs"].get(field.get("$ref", "").rpartition("/")[2], {})
            if "\n" in (referred | field).get("description", "\n"):
                yield f"{path}.{name}"

    parts = {"record": SCHEMA} | SCHEMA["$defs"]
    assert {"Model", "DataSet", "Cell", "Metric", "Axis", "Check"} < parts.keys()
    for name, part in parts.items():
        assert part["description"]
        assert list(undescribed(part, name)) == []


def test_a_file_holds_what_code_may_leave_to_its_default() -> None:
    assert set(SCHEMA["required"]) == SCHEMA["properties"].keys()
    cell = SCHEMA["$defs"]["Cell"]
    assert set(cell["required"]) == cell["properties"].keys()
    assert SCHEMA["additionalProperties"] is cell["additionalProperties"] is False


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    results = tmp_path_factory.mktemp("written")
    all_suites(results, methods=("byol",), seeds=1, n=40)
    return [json.loads(path.read_text()) for path, _ in find_records(results)]


def test_other_tools_may_check_records_by_the_published_schema(written: list[Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    validator.check_schema(SCHEMA)
    committed = [to_json(read_record(path)) for path in COMMITTED[::20]]
    for record in (*written, *committed):
        validator(SCHEMA).validate(json.loads(json.dumps(record)))
    for path, value in WRONG:
        assert not validator(SCHEMA).is_valid(changed(written[0], path, value)), path


@pytest.mark.slow
@pytest.mark.parametrize("study", sorted({path.parents[3].name for path in COMMITTED}))
def test_every_committed_record_keeps_all_but_what_is_said_in_another_way_now(
    study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other versions of zlib compress to other bytes, which are not compared.
    monkeypatch.setattr("robustbench_coss.records.columns.zlib.compress", lambda raw, level: b"")
    for path in (path for path in COMMITTED if path.parents[3].name == study):
        # Older files write the norms in letters.
        words = re.sub(r"\bL2\b", "ℓ2", re.sub(r"\bLinf\b", "ℓ∞", path.read_text()))
        stored = json.loads(words)
        read = json.loads(json.dumps(to_json(read_record(path))))
        for content in (stored, read):
            for key in ("schema", "options", "about", "precision", "tf32", "compiled"):
                content.pop(key, None)
            content["model"].pop("training")
            for cell in content["cells"]:
                cell.pop("stage", None), cell.pop("kind", None)
            for column in columns(content):
                column.pop("data")
        assert read == stored, path


def columns(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (content["index"], content["label"])
    for cell in content["cells"]:
        yield from cell["outcomes"].values()


def changed(record: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with another value at a dotted path; ... removes it."""
    out = copy.deepcopy(record)
    *way, last = path.split(".")
    place: Any = out
    for key in way:
        place = place[int(key)] if key.isdigit() else place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return out


WRONG: list[tuple[str, Any]] = [
    ("suite", ...),
    ("extra", ...),
    ("about", ...),
    ("options", ...),
    ("cells.0.problem", ...),
    ("schema", 5),
    ("precision", "64"),
    ("tf32", "no"),
    ("compiled", ...),
    ("suite_version", 0),
    ("seed", "0"),
    ("key", "abc"),
    ("comment", "not a field"),
    ("model.checkpoint_sha256", "F" * 64),
    ("model.parameters", 1.5),
    ("model.width", 0),
    ("model.probe", {}),
    ("model.probe.train_top1", 1.2),
    ("model.training.recipe", "recipe.yaml"),
    ("model.accuracy", 0.99),
    ("dataset.role", "tset"),
    ("dataset.n", 0),
    ("dataset.limit", "all"),
    ("index.dtype", "object"),
    ("label.data", "not base64!"),
    ("metrics.0.conditions", []),
    ("metrics.0.better", "lowest"),
    ("axis.percent", "yes"),
    ("cells.0.outcomes", {}),
    ("cells.0.outcomes.correct", [True, False]),
    ("cells.0.wall_time_s", -1),
    ("cells.0.level", "high"),
    ("checks.0.passed", 1),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=[path for path, _ in WRONG])
def test_every_reader_refuses_a_file_of_another_form(
    written: list[Any], path: str, value: Any, tmp_path: Path
) -> None:
    damaged = changed(written[0], path, value)
    with pytest.raises(CossError, match=r"^here\.json is no record: "):
        from_json(damaged, "here.json")
    (tmp_path / "r.json").write_text(json.dumps(damaged))
    with pytest.raises(CossError, match=r"is damaged|has schema 5"):
        read_record(tmp_path / "r.json")


def test_records_of_schema_2_lack_about_and_options_but_nothing_else(written: list[Any]) -> None:
    older = changed(changed(changed(written[0], "schema", 2), "about", ...), "options", ...)
    from_json(older, "here.json")
    with pytest.raises(CossError, match="the file: it lacks extra"):
        from_json(changed(older, "extra", ...), "here.json")


def test_records_of_schema_1_lack_extra_and_problem_too(written: list[Any]) -> None:
    older = changed(changed(written[0], "schema", 1), "extra", ...)
    del older["about"], older["options"]
    for cell in older["cells"]:
        del cell["problem"]
    from_json(older, "here.json")


def test_columns_of_another_length_than_expected_are_not_inflated(written: list[Any]) -> None:
    huge = changed(written[0], "index.n", 10**15)  # would not fit into memory
    with pytest.raises(CossError, match=r"index: 1000000000000000 values where 40 were expected"):
        from_json(huge, "here.json")


def test_the_error_names_the_field_and_is_one_short_line(written: list[Any]) -> None:
    with pytest.raises(CossError, match=r"cells\[0\]\.wall_time_s: .* equal to 0, got -1$"):
        from_json(changed(written[0], "cells.0.wall_time_s", -1), "here.json")
    with pytest.raises(CossError) as caught:
        from_json(changed(written[0], "label.data", "?" * 10_000), "here.json")
    assert len(str(caught.value)) < 200
    with pytest.raises(CossError, match=r"here\.json is no record: the file: .*, got \[\]$"):
        from_json([], "here.json")
