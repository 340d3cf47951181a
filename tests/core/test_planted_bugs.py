"""The list of bugs that `tests/planted_bugs.py` plants fits the source as it is."""

from __future__ import annotations

from pathlib import Path

import planted_bugs
import pytest
from helpers import ROOT
from planted_bugs import Bug, plant, read_bugs

BUGS = read_bugs(ROOT / "tests" / "planted_bugs.yaml")


@pytest.mark.parametrize("bug", BUGS, ids=[bug.name for bug in BUGS])
def test_each_bug_can_be_planted_and_names_tests_that_exist(bug: Bug) -> None:
    before = (ROOT / bug.file).read_text()
    after = plant(bug, before)
    assert after is not None, f"the source of {bug.name!r} has changed; describe the bug anew"
    assert after != before
    compile(after, bug.file, "exec")
    assert all((ROOT / path).exists() for path in bug.tests)


def test_there_are_enough_of_them_and_none_twice() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 60


@pytest.mark.slow
@pytest.mark.parametrize(("body", "said"), [("x + 1", "caught"), ("x - 1", "NOT CAUGHT")])
def test_a_bug_is_caught_where_a_test_fails_and_the_source_is_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, said: str
) -> None:
    (tmp_path / "toy.py").write_text(f"def f(x):\n    return {body}\n")
    (tmp_path / "test_toy.py").write_text("from toy import f\ndef test_f(): assert f(1) < 3\n")
    bug = Bug("toy", "toy.py", (("return x", "return 2 * x"),), ("test_toy.py",))
    monkeypatch.setattr(planted_bugs, "MINUTES", 1)
    before = (tmp_path / "toy.py").read_text()
    fate, noticed_by = planted_bugs.try_out(bug, tmp_path)
    assert fate == said
    assert noticed_by == ("test_toy.py::test_f" if fate == "caught" else "")
    assert (tmp_path / "toy.py").read_text() == before


def test_an_edit_that_fits_nowhere_or_twice_is_told_apart(tmp_path: Path) -> None:
    bug = Bug("toy", "toy.py", (("x", "y"),), ())
    assert plant(bug, "z = 1") is None
    assert plant(bug, "x = x") is None
    assert plant(bug, "x = 1") == "y = 1"
