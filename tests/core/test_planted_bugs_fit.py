"""The bugs that `tests/planted_bugs.py` plants fit the source as it is."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

import planted_bugs  # noqa: E402


def test_every_bug_can_be_planted_and_has_tests() -> None:
    bugs = [
        bug
        for path in sorted(TESTS.glob("planted_bugs*.yaml"))
        for bug in planted_bugs.read_bugs(path)
    ]
    assert len({bug.name for bug in bugs}) == len(bugs) >= 200
    root = TESTS.parent
    unfit = [b.name for b in bugs if planted_bugs.plant(b, (root / b.file).read_text()) is None]
    assert unfit == [], "their code has changed: bring tests/planted_bugs*.yaml up to date"
    missing = [name for bug in bugs for name in bug.tests if not (root / name).exists()]
    assert missing == []
