"""A broken package of somebody else is named and left out, and costs nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.bench import Bench

from robustbench_coss import registry
from robustbench_coss.errors import CossError

MODULES = {
    "plug_exits": "import sys\nsys.exit(0)\n",
    "plug_raises": "raise RuntimeError('two\\nlines')\n",
    "plug_wrong": "thing = 3\nclass Empty: pass\n",
    "plug_missing": "class Source:\n    default_size = 8\n    def open(self, *a): ...\n"
    "    def missing(self, root): raise KeyError('root')\nsource = Source()\n",
    "plug_suite": "class Lame:\n    name = 'lame'\n",
    "plug_quits": "class Quits:\n    def __init__(self): raise SystemExit(0)\n",
    "plug_init": "class Angry:\n    def __init__(self): raise OSError('no')\n",
}
ENTRIES = """
[robustbench_coss.suites]
exits = plug_exits:suite
raises = plug_raises:suite
wrong = plug_wrong:thing
lame = plug_suite:Lame
angry = plug_init:Angry
quits = plug_quits:Quits
gone = plug_wrong:nothing
odd = not a reference!
[robustbench_coss.datasets]
failing = plug_missing:source
number = plug_wrong:thing
[robustbench_coss.methods]
empty = plug_wrong:Empty
[robustbench_coss.encoders]
three = plug_wrong:thing
"""


def install(folder: Path, name: str, entries: str) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entries)


@pytest.fixture(autouse=True)
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two packages: one whose objects are broken, one whose list of them is."""
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    install(tmp_path, "broken-objects", ENTRIES)
    install(tmp_path, "broken-list", "[robustbench_coss.suites]\nno equals sign here\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._entries.cache_clear()
    yield
    registry._entries.cache_clear()
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.mark.filterwarnings("ignore:the entry points of package broken-list")
@pytest.mark.parametrize(
    ("kind", "name", "why"),
    [
        ("suite", "exits", "does not import: SystemExit: 0"),
        ("suite", "raises", "does not import: RuntimeError: two lines"),
        ("suite", "wrong", "is no suite: it is a int"),
        ("suite", "gone", "does not import: AttributeError"),
        ("suite", "odd", "does not import"),
        ("dataset", "number", "is no dataset: it has no missing, open, default_size"),
        ("method", "empty", "is no method: it has no Options"),
        ("encoder", "three", "is no encoder: it is a int"),
    ],
)
def test_a_broken_object_is_named_with_its_package(kind: str, name: str, why: str) -> None:
    with pytest.raises(CossError) as error:
        registry.load(kind, name)
    line = str(error.value)
    assert line.startswith(f"{kind} {name!r} of package 'broken-objects' {why}")
    assert line.endswith("repair or uninstall that package")
    assert "\n" not in line


def test_a_list_that_cannot_be_read_is_named_and_the_others_are_read() -> None:
    with pytest.warns(UserWarning, match="entry points of package broken-list cannot be read"):
        names = registry.names("suite")
    assert {"clean", "crop", "exits"} <= set(names)


@pytest.mark.filterwarnings("ignore")
def test_commands_go_on_without_broken_packages(bench: Bench, tmp_path: Path) -> None:
    found = bench("list")
    assert found.code == 0
    assert "broken-objects" in found.out
    found = bench("doctor", "--data-root", tmp_path, "--results", tmp_path)
    assert "dataset 'failing' of package 'broken-objects' fails: KeyError: 'root'" in found.out
    assert "dataset 'number' of package 'broken-objects'" in found.out
    assert "data set parts: present" in found.out
    for words, why in (
        (["--suite", "lame"], "suite 'lame' of package 'broken-objects' is no suite: it has no"),
        (["--suite", "angry"], "suite 'angry' of package 'broken-objects' fails: OSError: no"),
        (["--suite", "quits"], "suite 'quits' of package 'broken-objects' fails: SystemExit: 0"),
        (["--suite", "exits"], "suite 'exits' of package 'broken-objects' does not import"),
        (["--suite", "clean", "--dataset", "failing"], "dataset 'failing' of package"),
    ):
        found = bench("eval", "control:pixels", *words, "--results", tmp_path / "r")
        assert found.code == 1
        assert why in found.err
        assert "Traceback" not in found.err


def test_all_suites_are_those_that_work(tmp_path: Path) -> None:
    from robustbench_coss.evaluations.running.runner import suite_names

    with pytest.warns(UserWarning, match="it is left out") as seen:
        names = suite_names(["all"])
    assert {"clean", "corruption", "crop"} <= set(names)
    assert not {"exits", "raises", "wrong", "gone", "odd"} & set(names)
    assert any("'exits' of package 'broken-objects'" in str(w.message) for w in seen)
