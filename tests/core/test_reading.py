"""Files of strangers: what is read, within which limits, and what is refused in one line."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st

from robustbench_coss import reading
from robustbench_coss.errors import CossError
from robustbench_coss.reading import parse_json, parse_yaml, read_bytes


def refused(parse: Callable[[Any], Any], text: Any) -> str:
    """What a parser says of a text that it must refuse within five seconds of work."""
    begun = time.process_time()
    with pytest.raises(ValueError, match=r".") as error:
        parse(text)
    assert time.process_time() - begun < 5
    return str(error.value)


# ---- files ----


def make(kind: str, path: Path) -> Path:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        server = socket.socket(socket.AF_UNIX)
        here = os.getcwd()
        os.chdir(path.parent)  # the path of a socket is short
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)
    elif kind != "nothing":
        path.symlink_to({"device": "/dev/zero", "link": "/no/where", "loop": str(path)}[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("pipe", "is a named pipe, not a regular file"),
        ("device", "is a device, not a regular file"),
        ("socket", "socket|No such device"),
        ("folder", "is a folder, not a regular file"),
        ("link", "is a link to /no/where, which is not there"),
        ("loop", "which is not there"),
        ("nothing", "the path does not exist"),
    ],
)
def test_what_is_no_regular_file_is_named_and_never_waited_for(
    kind: str, says: str, tmp_path: Path
) -> None:
    path = make(kind, tmp_path / "x")
    with pytest.raises(CossError, match=says) as error:
        read_bytes(path, 10)
    assert str(path) in str(error.value)


def test_a_file_may_have_just_as_many_bytes_as_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    assert read_bytes(path, 10) == b"0123456789"
    with pytest.raises(CossError, match="has 10 bytes or more, and at most 9 are read"):
        read_bytes(path, 9)


def test_a_sparse_file_of_a_terabyte_is_refused_by_its_size(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CossError, match="1,099,511,627,776 bytes"):
        read_bytes(tmp_path / "x", reading.MOST_JSON)


def test_a_file_that_states_no_size_is_read_up_to_the_limit() -> None:
    assert os.stat("/proc/self/maps").st_size == 0
    assert read_bytes(Path("/proc/self/maps"), 1 << 20)
    with pytest.raises(CossError, match="at most 9 are read"):
        read_bytes(Path("/proc/self/maps"), 9)


def test_a_path_with_a_nul_is_one_line() -> None:
    with pytest.raises(CossError, match="holds a NUL"):
        read_bytes(Path("a\0b"), 1)


# ---- YAML ----

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LAUGHS, "more than 10,000 values"),
        ("a: &a [*a]", "holds itself"),
        ("&a {b: {c: *a}}", "holds itself"),
        ("&a [&b [*a]]", "holds itself"),
        ("[" * 3_000, "nested deeper than 100"),
        ("{a: " * 3_000, "nested deeper than 100"),
        ("- " * 3_000 + "x", "nested deeper than 100"),
        ("a: " + "9" * 5_000, "5,000 digits"),
        ("a: -0x" + "f" * 5_000, "5,003 digits"),
        ("a: 1" + ":59" * 3_000, "9,001 digits"),
        ("a: 1e999", "out of range"),
        ("a: -1.0e+999", "out of range"),
        ("a: .inf", "out of range"),
        ("a: [.NaN]", "out of range"),
        ("a: !!float inf", "out of range"),
        ("x: 2001-99-99", "month"),
        ("x: !!timestamp y", "not of its kind"),
        ("x: !!bool y", "not of its kind"),
        ("x: !!int ''", "not of its kind"),
        ("x: !!int y", "invalid literal"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("{[a]: 1}", "unhashable key"),
        ("\0", "special characters"),
        (b"\xff\xfe\x00", "."),
        (b"\x80", "."),
        ("a: b: c", "mapping values are not allowed"),
        ("--- a\n--- b", "single document"),
        ("a: " + "x" * 200_000, "more than 65,536 bytes"),
        ("".join(f"k{i}: 1\n" for i in range(5_100)), "more than 10,000 values"),
    ],
)
def test_yaml_beyond_the_limits_is_one_line(text: str | bytes, says: str) -> None:
    message = refused(parse_yaml, text)
    assert re.search(says, message)
    assert "Traceback" not in message


def test_aliases_within_the_limits_are_followed() -> None:
    assert parse_yaml("a: &a [1, 2]\nb: *a\nc: {<<: {d: *a}}") == {
        "a": [1, 2],
        "b": [1, 2],
        "c": {"d": [1, 2]},
    }
    assert parse_yaml("") is None


def test_depth_is_counted_through_aliases() -> None:
    text = "a0: &a0 []\n"
    for k in range(1, 4):
        text += f"a{k}: &a{k} " + "[" * 40 + f"*a{k - 1}" + "]" * 40 + "\n"
    assert refused(parse_yaml, text) == "it is nested deeper than 100"


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**30), 10**30))
def test_numbers_are_read_as_json_spells_them(number: float) -> None:
    assert parse_yaml(json.dumps(number)) == number
    assert parse_yaml(f"a: {json.dumps(number)}") == {"a": number}


@pytest.mark.parametrize(
    ("text", "value"),
    [("5e-1", 0.5), ("1E3", 1000.0), ("-.5e1", -5.0), ("2.e0", 2.0), ("e5", "e5")],
)
def test_numbers_in_powers_of_ten_need_no_point(text: str, value: float | str) -> None:
    assert parse_yaml(f"a: {text}") == {"a": value}


# ---- JSON ----


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "nested deeper than 100"),
        ('{"a":' * 100_000, "nested deeper than 100"),
        ("[" * 101 + "1" + "]" * 101, "nested deeper than 100"),
        ("NaN", "NaN is no JSON"),
        ('{"a": [-Infinity]}', "-Infinity is no JSON"),
        ("1e400", "out of range"),
        ("0." + "1" * 5_000, "out of range"),
        ("9" * 5_000, "5,000 digits"),
        ("-" + "9" * 101, "102 digits"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' is there twice"),
        ("[" + "[]," * 5_000_001 + "0]", "more than 5,000,000 values"),
        (b"\xff", "utf-8"),
        ("", "Expecting value"),
        ("[1] 2", "Extra data"),
    ],
)
def test_json_beyond_the_limits_is_one_line(text: str | bytes, says: str) -> None:
    assert re.search(says, refused(parse_json, text))


def test_json_within_the_limits_is_read() -> None:
    value = {"a": [1, 2.5, None, True, "é"], "b": {"c": 10**99}}
    assert parse_json(json.dumps(value)) == value
    assert parse_json("[" * 100 + "]" * 100)


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3", "x: {a: 1, 'a': 2}", "- {a: 1, a: 1}"])
def test_a_key_that_is_there_twice_is_refused_as_in_json(text: str) -> None:
    assert refused(parse_yaml, text) == "'a' is there twice"


def test_keys_of_other_mappings_and_of_another_kind_are_others() -> None:
    assert parse_yaml("a: {a: 1}\n1: x\n'1': y") == {"a": {"a": 1}, 1: "x", "1": "y"}


# ---- what is documented ----


def test_the_documentation_states_the_limits() -> None:
    text = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
    for words in (
        f"{reading.MOST_YAML >> 10} KiB | {reading.MOST_NODES:,} values",
        f"{reading.MOST_JSON >> 20} MiB | {reading.MOST_VALUES:,} values",
        f"{reading.DEEPEST} levels, numbers of {reading.MOST_DIGITS} digits",
        f"`classes.txt` | {reading.MOST_TEXT >> 20} MiB",
    ):
        assert words in text


def test_nothing_else_parses_yaml_or_json_of_others() -> None:
    readers = {
        "robustbench_coss/reading.py",
        "robustbench_coss/datasets/pictures.py",
        "robustbench_coss/models/containers.py",
    }
    own_words = {
        "robustbench_coss/testing.py",  # a suite's own values, there and back
        "evaluations/running/draft.py",
        "evaluations/submissions/bundle.py",
        "robustbench_coss/models/other_tools/opening.py",  # in lines for users to type
        "robustbench_coss/models/other_tools/heads.py",  # likewise
        "robustbench_coss/models/export.py",  # in a recipe for the reader of a page
        "robustbench_coss/models/export_hf.py",  # own values, there and back
        "robustbench_coss/test_sets/opening.py",  # paths and names of its own, there and back
        "evaluations/probes/linear.py",  # the header that was just written
    }
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in ("robustbench_coss", "pretrain", "evaluations")
        for path in (ROOT / folder).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\byaml\.(safe_)?load|\bjson\.loads?\(|Image\.open\(|torch\.load\(", line)
    }
    assert found - own_words == readers
