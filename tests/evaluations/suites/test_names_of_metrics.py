"""Test sets whose metrics would have one name are refused before anything is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.suites.options import metric_key, refuse_twice


def test_sets_that_differ_in_signs_alone_are_refused_where_they_name_metrics() -> None:
    with pytest.raises(CossError, match=r"^x a-b and a_b, whose metrics have one name; rename one"):
        refuse_twice("x", ["c", "a-b", "a_b"], metric_key)
    with pytest.raises(CossError, match=r"^x a-b twice; name each set once$"):
        refuse_twice("x", ["a-b", "c", "a-b"], metric_key)
    refuse_twice("x", ["a-b", "a_b"])


def test_shift_refuses_them(tmp_path: Path) -> None:
    from robustbench_coss.evaluations.suites import shift
    from robustbench_coss.test_sets.description import shipped

    names = list(shipped())
    assert len({metric_key(name) for name in names}) == len(names)
    with pytest.raises(CossError, match="twice; name each set once"):
        shift.Shift(sets=[names[0], names[0]])
