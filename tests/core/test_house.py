"""The walls between the floors of this repository, and how long files and functions may be."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest
from helpers import ROOT

PACKAGE = "robustbench_coss"
PRETRAIN, EVALUATIONS = f"{PACKAGE}.pretrain", f"{PACKAGE}.evaluations"
DOORS = (f"{PACKAGE}.cli", f"{PACKAGE}.api", f"{PACKAGE}.testing", f"{PACKAGE}.__main__", PACKAGE)
"""What of the core may import the other two: the command line and the Python interface."""

LONGEST_FILE, LONGEST_FUNCTION = 400, 80  # lines

TOO_LONG_FILES: set[str] = set()
TOO_LONG_FUNCTIONS: set[str] = set()


@cache
def sources() -> dict[str, ast.Module]:
    """Module name to syntax tree, for every module of the package."""
    found = {}
    for folder in (PACKAGE, "pretrain", "evaluations"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            within = path.relative_to(ROOT)
            if folder == PACKAGE and within.parts[1] in ("pretrain", "evaluations"):
                continue  # the links to the other two folders
            parts = within.with_suffix("").parts
            name = ".".join(parts if folder == PACKAGE else (PACKAGE, *parts))
            found[name.removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(module: str) -> Iterator[str]:
    """What a module imports, wherever in it: the dotted names of modules, or of things in them."""
    for node in ast.walk(sources()[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, *floors: str) -> bool:
    """Whether a dotted name is, or lies in, one of some modules or packages."""
    return any(name == floor or name.startswith(f"{floor}.") for floor in floors)


def core() -> list[str]:
    doors = [name for name in sources() if name in DOORS or within(name, *DOORS[:-1])]
    return [n for n in sources() if n not in doors and not within(n, PRETRAIN, EVALUATIONS)]


def floor(*names: str) -> list[str]:
    return [name for name in sources() if within(name, *names)]


def across(modules: list[str], *forbidden: str) -> list[str]:
    """The imports of some modules that lead into forbidden ones."""
    assert modules
    return [f"{m} imports {i}" for m in modules for i in imports(m) if within(i, *forbidden)]


def test_pretraining_and_evaluation_do_not_know_each_other() -> None:
    assert across(floor(PRETRAIN), EVALUATIONS) == []
    assert across(floor(EVALUATIONS), PRETRAIN) == []


def test_the_core_knows_neither() -> None:
    assert across(core(), PRETRAIN, EVALUATIONS) == []


def test_statistics_know_no_record() -> None:
    assert across(floor(f"{PACKAGE}.statistics"), f"{PACKAGE}.records") == []


def test_records_know_nothing_that_shows_them() -> None:
    shown = [f"{PACKAGE}.{name}" for name in ("tables", "figures", "pages", "cli")]
    assert across(floor(f"{PACKAGE}.records"), *shown) == []


def test_nothing_is_imported_by_the_name_of_a_folder_at_the_top() -> None:
    # A user's pretrain.py beside a script would be found in its place.
    assert across(list(sources()), "pretrain", "evaluations") == []


def test_workers_that_corrupt_images_need_not_import_torch() -> None:
    assert (ROOT / "evaluations" / "corruptions" / "__init__.py").read_bytes() == b""


@cache
def lengths() -> list[tuple[str, int, ast.Module]]:
    return list(_lengths())


def _lengths() -> Iterator[tuple[str, int, ast.Module]]:
    for folder in (PACKAGE, "pretrain", "evaluations", "benchmarks", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith((f"{PACKAGE}/pretrain/", f"{PACKAGE}/evaluations/")):
                text = path.read_text(encoding="utf-8")
                # Functions of tests may be as long as they like: they need not be parsed.
                yield name, text.count("\n"), ast.parse("" if folder == "tests" else text)


def test_no_file_is_too_long() -> None:
    assert {name for name, lines, _ in lengths() if lines > LONGEST_FILE} == TOO_LONG_FILES


def test_every_file_of_tests_that_is_called_slow_is_one_file() -> None:
    called = re.findall(r'"(test_\w+\.py)"', (ROOT / "tests" / "conftest.py").read_text())
    there = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert {name: there.count(name) for name in called} == dict.fromkeys(called, 1)


def test_no_function_is_too_long() -> None:
    found = {
        f"{name}: {node.name}"
        for name, _, tree in lengths()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    }
    assert found == TOO_LONG_FUNCTIONS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import pretrain.views", ["pretrain.views"]),
        ("def f():\n    from a.b import c, d as e", ["a.b.c", "a.b.d"]),
    ],
)
def test_imports_are_found_inside_functions_too(
    text: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sources(), "made.up", ast.parse(text))
    assert list(imports("made.up")) == expected


def test_a_module_is_within_a_package_but_not_within_one_whose_name_it_only_begins_with() -> None:
    assert within("a.b.c", "a.b")
    assert within("a.b", "a.b")
    assert not within("a.bc", "a.b")
