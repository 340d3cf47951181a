"""Names of anybody in LaTeX."""

from __future__ import annotations

from robustbench_coss.tables.cells import Section, TableCell, block
from robustbench_coss.tables.latex import escape_latex, to_latex


def latex_of(name: str) -> str:
    made = block([("Model", [TableCell(name)]), ("Top-1", [TableCell("50.0")])])
    return to_latex("leaderboard", [Section("set", "", (made,), ())])


def test_controls_are_spelled_since_no_engine_takes_them() -> None:
    assert escape_latex("a\u202eb\x07") == r"a\textbackslash{}u202eb\textbackslash{}x07"
    assert latex_of("a\u202eb").isascii()


def test_a_table_says_which_engine_has_its_characters() -> None:
    assert latex_of("naïve ×0.5 ℓ∞").startswith("% Needs")
    assert latex_of("модель").startswith("% For LuaLaTeX")
