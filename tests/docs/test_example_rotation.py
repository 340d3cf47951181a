"""The example of a third party's suite, installed for real, and its tutorial."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from helpers.forked import Forked

from robustbench_coss import cli, registry
from robustbench_coss.models.checkpoint import build_encoder, save_encoder
from robustbench_coss.records.record import find_records

EXAMPLE = ROOT / "examples" / "coss-bench-rotation"
PAGE = (ROOT / "docs" / "write-a-suite.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables with which Python finds the installed example."""
    folder = tmp_path_factory.mktemp("installed")
    # A build leaves files beside its sources, so it gets sources of its own.
    source = shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("__pyc*"))
    target = folder / "target"
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    pip = (sys.executable, "-m", "pip", "install", "-q")
    subprocess.run([*pip, *offline, "--target", target, source], check=True, timeout=120)
    return {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def installed(call: Callable[[], object], environment: dict[str, str], cwd: Path) -> str:
    """What is printed in a process that finds the installed example, as if it had just started."""

    def run() -> None:
        os.chdir(cwd)
        os.environ |= environment
        sys.path.insert(0, environment["PYTHONPATH"])
        registry._entries.cache_clear()
        sys.exit(call())  # type: ignore[arg-type]

    process = Forked(run)
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    return out


def coss_bench(*arguments: str, environment: dict[str, str], cwd: Path) -> str:
    def call() -> None:
        sys.argv = ["coss-bench", *arguments]
        cli.main()

    return installed(call, environment, cwd)


def test_the_installed_suite_is_listed_with_its_package(
    environment: dict[str, str], tmp_path: Path
) -> None:
    listed = coss_bench("list", "suites", environment=environment, cwd=tmp_path)
    assert re.search(r"rotation .*coss-bench-rotation", listed)


@pytest.mark.usefixtures("few_pictures")
def test_the_installed_suite_measures_and_its_record_is_in_the_tables(
    environment: dict[str, str], tmp_path: Path
) -> None:
    metadata = {"arch": "rf29_resnet18", "size": 32, "width": 1 / 16, "dataset": "parts"}
    encoder = build_encoder("rf29_resnet18", size=32, width=1 / 16)
    (tmp_path / "run").mkdir()
    save_encoder(tmp_path / "run" / "encoder.safetensors", encoder, metadata)
    coss_bench(
        *("eval", "run", "--suite", "rotation", "--set", "rotation.angles=[15,90]"),
        *("--limit", "20", "--probe-train", "60", "--device", "cpu"),
        environment=environment,
        cwd=tmp_path,
    )
    ((_, record),) = find_records(tmp_path / "results")
    assert record.complete
    assert record.about["title"] == "Rotation"
    assert (record.suite, record.suite_config) == ("rotation", {"angles": [15.0, 90.0]})
    names = ["upright", "disc", "rotate@15", "rotate@90"]
    assert [cell.condition for cell in record.cells] == names
    assert all(cell.outcomes["correct"].shape == (20,) for cell in record.cells)
    turned = [record.column(name, "correct").mean() for name in names[2:]]
    assert record.per_sample(record.metrics[0]).mean() == pytest.approx(np.mean(turned))
    assert "Rotated top-1" in coss_bench("leaderboard", environment=environment, cwd=tmp_path)


def test_the_tests_of_the_example_pass(environment: dict[str, str]) -> None:
    source = Path(environment["PYTHONPATH"]).parent / "source"
    alone = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests"]
    assert " passed" in installed(lambda: pytest.main(alone), environment, source)


@pytest.mark.parametrize(
    ("language", "file"), [("python", "coss_bench_rotation.py"), ("toml", "pyproject.toml")]
)
def test_the_tutorial_shows_the_files_of_the_example(language: str, file: str) -> None:
    shown, *_ = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert shown == (EXAMPLE / file).read_text(encoding="utf-8")


def test_the_suite_takes_less_than_64_lines() -> None:
    assert len((EXAMPLE / "coss_bench_rotation.py").read_text().splitlines()) < 64
