"""Variables and folders of the environment that cannot be used are one line."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from helpers import simulate
from helpers.bench import Bench

from robustbench_coss.errors import CossError
from robustbench_coss.files import scratch_folder


@pytest.mark.parametrize(
    "name", ["WORLD_SIZE", "RANK", "LOCAL_RANK", "SLURM_NTASKS", "SOURCE_DATE_EPOCH"]
)
@pytest.mark.parametrize("value", ["abc", "-1", "1.5"])
def test_a_variable_that_is_no_number_is_named(
    name: str, value: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    found = bench("pretrain", "--method", "byol", "--dry-run")
    assert found.code == 1
    (line,) = found.err.splitlines()
    assert line.startswith(f"error: the environment variable {name} must be a whole number, got")
    assert "unset it" in line


def test_the_backend_of_another_program_is_not_used(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    simulate.save(tmp_path, simulate.clean(0.5))
    found = bench("plot", "--results", tmp_path, "--figure", "summary")
    assert found.code == 0, found.err


def test_without_a_temporary_folder_a_command_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nonexistent"])
    with (
        pytest.raises(CossError, match=r"no temporary folder can be used .*; set TMPDIR"),
        scratch_folder("coss-test-"),
    ):
        raise AssertionError("it cannot be there")


def test_a_temporary_folder_of_a_killed_process_goes_and_one_in_use_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "coss-test-dead" / "deep").mkdir(parents=True)
    with scratch_folder("coss-test-") as first:
        assert not (tmp_path / "coss-test-dead").exists()
        with scratch_folder("coss-test-") as second:
            assert first.is_dir()
            assert second.is_dir()
        assert not second.exists()
    assert list(tmp_path.iterdir()) == []
