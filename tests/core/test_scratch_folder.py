"""A scratch folder belongs to the process that made it, from before another one can remove it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from robustbench_coss import files


def test_a_folder_that_another_process_removes_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = tempfile.mkdtemp, []

    def in_a_race(*args: Any, **options: Any) -> str:
        made.append(make(*args, **options))
        if len(made) < 3:
            Path(made[-1]).rmdir()  # as one that begins just now does with what nobody holds
        return str(made[-1])

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile, "mkdtemp", in_a_race)
    with files.scratch_folder("coss-test-") as folder:
        assert folder == Path(made[2])
        (folder / "file").write_text("kept")
        with files.scratch_folder("coss-test-"):  # removes what nobody holds
            assert (folder / "file").read_text() == "kept"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_removed_between_opening_and_locking_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, made = files._lock, []

    def in_a_race(handle: int, wait: bool = False) -> bool:
        if not made:
            made.extend(tmp_path.iterdir())
            made[0].rmdir()
        return lock(handle, wait)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(files, "_lock", in_a_race)
    with files.scratch_folder("coss-test-") as folder:
        assert folder.is_dir()
        assert folder not in made
