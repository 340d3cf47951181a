"""A record that is written after each condition compresses what it has written once."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from helpers import simulate

from robustbench_coss.records import columns
from robustbench_coss.records.record import Cell, write_record


def test_a_record_that_grows_compresses_each_column_once_and_ends_as_if_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [Cell(f"n@{i}", "n", i, {"correct": simulate.exactly(i / 9, 9)}) for i in range(1, 8)]
    record = simulate.record(cells, [])
    seen: list[bytes] = []

    def compress(raw: bytes, level: int) -> bytes:
        seen.append(raw)
        return zlib.compress(raw, level)

    lines: dict[str, str] = {}
    with monkeypatch.context() as patch:
        patch.setattr(columns, "zlib", type("Spy", (), {"compress": staticmethod(compress)}))
        for count in range(len(cells) + 1):
            record.cells = cells[:count]
            write_record(tmp_path / "grown.json", record, lines)
    # Index and labels of the images at each of 8 writes, and 7 cells.
    assert len(seen) == 2 * 8 + 7
    write_record(tmp_path / "once.json", record)
    assert (tmp_path / "grown.json").read_bytes() == (tmp_path / "once.json").read_bytes()


def test_cells_in_another_order_than_they_were_written_in_keep_their_lines(tmp_path: Path) -> None:
    first, second = (Cell(n, "n", 1.0, {"correct": simulate.exactly(0.5, 6)}) for n in ("a", "b"))
    record, lines = simulate.record([second], []), dict[str, str]()
    write_record(tmp_path / "grown.json", record, lines)
    record.cells = [first, second]
    write_record(tmp_path / "grown.json", record, lines)
    write_record(tmp_path / "once.json", record)
    assert (tmp_path / "grown.json").read_bytes() == (tmp_path / "once.json").read_bytes()
