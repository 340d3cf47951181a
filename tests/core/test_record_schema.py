from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import ROOT
from helpers.simulate import all_suites
from jsonschema import Draft202012Validator

from robustbench_coss.errors import CossError
from robustbench_coss.records.record import find_records
from robustbench_coss.records.schema import check_schema, schema_text

PUBLISHED = ROOT / "docs" / "record-schema.json"
SCHEMA: dict[str, Any] = json.loads(PUBLISHED.read_text(encoding="utf-8"))
COMMITTED = sorted((ROOT / "results").glob("fashion-mnist*/records/*/*/*.json"))


def test_the_published_schema_is_that_of_the_code() -> None:
    assert PUBLISHED.read_text(encoding="utf-8") == schema_text()


def test_it_is_a_valid_schema_of_the_draft_it_names() -> None:
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(SCHEMA)


def test_every_field_is_described() -> None:
    def undescribed(schema: Any, path: str) -> Iterator[str]:
        for name, field in schema.get("properties", {}).items():
            if not field.get("description"):
                yield f"{path}.{name}"
            yield from undescribed(field, f"{path}.{name}")
        if isinstance(schema.get("items"), dict):
            yield from undescribed(schema["items"], f"{path}[]")

    whole = {k: v for k, v in SCHEMA.items() if k not in ("if", "else")}
    assert list(undescribed(whole, "record")) == []
    assert list(undescribed(SCHEMA["$defs"]["column"], "column")) == []


@pytest.mark.parametrize("study", sorted({path.parents[3].name for path in COMMITTED}))
def test_every_committed_record_has_this_form(study: str) -> None:
    validator = Draft202012Validator(SCHEMA)
    files = [path for path in COMMITTED if path.parents[3].name == study]
    assert files
    for path in files:
        validator.validate(json.loads(path.read_text()))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    results = tmp_path_factory.mktemp("written")
    all_suites(results, methods=("byol",), seeds=1, n=40)
    return [json.loads(path.read_text()) for path, _ in find_records(results)]


def test_records_as_this_version_writes_them_have_this_form(written: list[Any]) -> None:
    validator = Draft202012Validator(SCHEMA)
    assert {record["schema"] for record in written} == {3}
    for record in written:
        validator.validate(record)


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


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("suite", ...),
        ("extra", ...),  # schema 2 has it
        ("about", ...),  # schema 3 has both
        ("options", ...),
        ("cells.0.problem", ...),
        ("schema", 4),
        ("suite_version", 0),
        ("seed", "0"),
        ("key", "abc"),
        ("comment", "not a field"),
        ("model.checkpoint_sha256", "F" * 64),
        ("model.parameters", 1.5),
        ("model.width", 0),
        ("model.probe", {}),
        ("model.probe.train_top1", 1.2),
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
    ],
)
def test_damaged_records_do_not_have_it(written: list[Any], path: str, value: Any) -> None:
    damaged = changed(written[0], path, value)
    assert not Draft202012Validator(SCHEMA).is_valid(damaged)
    with pytest.raises(CossError, match=r"^here\.json is no record: "):
        check_schema("here.json", damaged)


def test_records_of_schema_2_lack_about_and_options(written: list[Any]) -> None:
    older = changed(changed(changed(written[0], "schema", 2), "about", ...), "options", ...)
    check_schema("here.json", older)
    with pytest.raises(CossError, match="'extra' is a required property"):
        check_schema("here.json", changed(older, "extra", ...))


def test_records_of_schema_1_lack_extra_and_problem(written: list[Any]) -> None:
    older = changed(changed(written[0], "schema", 1), "extra", ...)
    del older["about"], older["options"]
    for cell in older["cells"]:
        del cell["problem"]
    check_schema("here.json", older)


def test_the_error_names_the_field_and_is_one_short_line(written: list[Any]) -> None:
    with pytest.raises(CossError, match=r"cells\[0\]\.wall_time_s: -1 is less") as caught:
        check_schema("here.json", changed(written[0], "cells.0.wall_time_s", -1))
    with pytest.raises(CossError) as caught:
        check_schema("here.json", changed(written[0], "label.data", "?" * 10_000))
    assert len(str(caught.value)) < 200
    with pytest.raises(CossError, match=r"here\.json is no record: the file: \[\] is not of type"):
        check_schema("here.json", [])
