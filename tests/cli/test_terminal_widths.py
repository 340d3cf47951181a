"""Tables keep to the width of the terminal, also where an encoding has to be spelled."""

from __future__ import annotations

import io
import sys

import pytest

from robustbench_coss.machine.terminal import prepare_streams, show
from robustbench_coss.tables.cells import Section, TableCell, block
from robustbench_coss.tables.terminal import to_rich


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("width", [40, 50, 80])
def test_what_is_spelled_with_more_characters_is_laid_out_with_them(
    encoding: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [TableCell(name) for name in ("BYOL · ×0.5", "∞-net ≥ 3 · ×0.25")]
    numbers = [TableCell("−1.0", "[−2.0 ± 0.1, ∞]", marked=True), TableCell("–")]
    columns = [(f"PGD-ℓ∞ {k}", numbers) for k in range(6)]
    section = Section("σ ≥ 0.1 …", "λ → ∞", (block([("Model", models), *columns]),), ())
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    monkeypatch.setenv("COLUMNS", str(width))
    prepare_streams()
    show(to_rich([section]))
    sys.stdout.flush()
    shown = raw.getvalue().decode(encoding)
    assert max(map(len, shown.splitlines())) <= width
    numbers_shown = {"utf-8": "[−2.0 ± 0.1, ∞]", "ascii": "[-2.0 +/- 0.1, inf]"}
    assert shown.count(numbers_shown.get(encoding, "[-2.0 ± 0.1, inf]")) == len(columns)
