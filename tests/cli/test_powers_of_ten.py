"""Numbers such as 5e-1, which YAML 1.1 takes for words, and words that begin like them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.bench import Bench

from robustbench_coss.cli.settings import parse_setting
from robustbench_coss.reading import parse_yaml
from robustbench_coss.records.record import find_records


@pytest.mark.usefixtures("few_pictures")
@pytest.mark.parametrize(
    ("typed", "areas"), [("5e-1", [0.5]), ("[5e-1,2.5E-1]", [0.5, 0.25]), (".5e0", [0.5])]
)
def test_the_areas_of_crops_may_be_powers_of_ten(
    bench: Bench, tmp_path: Path, typed: str, areas: list[float]
) -> None:
    found = bench(
        *("eval", "control:pixels", "--dataset", "parts", "--size", 16, "--limit", 8),
        *("--suite", "crop", "--probe-train", 40, "--results", tmp_path, "--device", "cpu"),
        *("--set", f"crop.areas={typed}"),
    )
    assert found.code == 0, found.err
    ((_, record),) = find_records(tmp_path)
    assert record.suite_config["areas"] == areas
    assert record.options == {"areas": areas if typed.startswith("[") else areas[0]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e5x", "1e5x"),
        ("1e5-run", "1e5-run"),
        ("2e1/a", "2e1/a"),
        ("3e8_", "3e8_"),
        ("1.5e3.txt", "1.5e3.txt"),
        ("1e5", 1e5),
        ("-2E-3", -0.002),
        ("'1e5'", "1e5"),
    ],
)
def test_a_word_that_begins_like_a_number_is_a_word(text: str, value: Any) -> None:
    assert parse_yaml(text) == value
    assert parse_yaml(f"a: [{text}]") == {"a": [value]}
    assert parse_setting(f"a.b={text}", "a=b") == ("a.b", value)
