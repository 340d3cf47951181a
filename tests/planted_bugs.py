"""Plant bugs one at a time and see whether the tests of their area notice: a test of the tests.

    python tests/planted_bugs.py                    # all of them, two at a time
    python tests/planted_bugs.py --only EMA --jobs 1

`planted_bugs*.yaml` list the bugs: what each is, the edits that plant it, and the tests that should
fail. Every bug is planted in a copy of the working tree, so the tree itself is never touched.
`noticed_by.yaml` holds which test noticed a bug before: it goes first, and the others only where it
passes; `--save` keeps what this run saw. The run ends with a list of what went unnoticed, and fails
below 95 %. It takes long, so it is run before a release and not by `make test`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
BAR = 0.95
CAUGHT, MISSED, UNFIT, LATE = "caught", "NOT CAUGHT", "does not fit", "took too long"
MINUTES = 20
NOTICED = ROOT / "tests" / "noticed_by.yaml"
# Loaded once, by a server that every run of tests is forked from; nothing of this project.
LIBRARIES = ["lightning", "matplotlib.pyplot", "pandas", "pytest", "scipy.stats", "torchvision"]


@dataclass(frozen=True)
class Bug:
    """A bug to plant.

    Attributes:
        name: what it is.
        file: the source that it goes into, from the root of the repository.
        edits: (old, new) texts; each old one occurs once.
        tests: files or folders of tests of its area.
        first: the one test that noticed it before.
    """

    name: str
    file: str
    edits: tuple[tuple[str, str], ...]
    tests: tuple[str, ...]
    first: str = ""


def read_bugs(path: Path) -> list[Bug]:
    """The bugs of a YAML file: mappings with bug, file, tests, and old and new or edits."""
    bugs, noticed = [], yaml.safe_load(NOTICED.read_text())
    for entry in yaml.safe_load(path.read_text()):
        edits = entry.get("edits") or [[entry["old"], entry["new"]]]
        tests = entry["tests"].split()
        name, edits = entry["bug"], tuple(map(tuple, edits))
        bugs.append(Bug(name, entry["file"], edits, tuple(tests), noticed.get(name, "")))
    return bugs


def plant(bug: Bug, text: str) -> str | None:
    """A source with the bug in it; None if an edit's old text does not occur exactly once."""
    for old, new in bug.edits:
        if text.count(old) != 1:
            return None
        text = text.replace(old, new)
    return text


@contextmanager
def planted(bug: Bug, tree: Path) -> Iterator[bool]:
    """The bug in a copy of the tree while the block runs; gives whether it could be planted."""
    path = tree / bug.file
    before = path.read_text()
    after = plant(bug, before)
    if after is not None:
        path.write_text(after)
    try:
        yield after is not None
    finally:
        path.write_text(before)


def run_tests(tree: Path, tests: tuple[str, ...]) -> None:
    """Run tests in the tree, up to the first that fails; ends the process with pytest's status."""
    import pytest

    os.setpgid(0, 0)
    os.chdir(tree)
    os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(tree))
    with (tree / "output").open("w") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
        sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))


def try_out(bug: Bug, tree: Path) -> tuple[str, str]:
    """Whether the tests of its area notice a bug, and which one does."""
    with planted(bug, tree) as fits:
        if not fits:
            return UNFIT, ""
        for tests in filter(None, [(bug.first,) if bug.first else (), bug.tests]):
            run = multiprocessing.get_context("forkserver").Process(
                target=run_tests, args=(tree, tests)
            )
            run.start()
            run.join(60 * MINUTES)
            if run.exitcode is None:
                os.killpg(run.pid or 0, signal.SIGKILL)
                return LATE, ""
            if run.exitcode == 1:
                break
    failed = [x for x in (tree / "output").read_text().splitlines() if x.startswith("FAILED")]
    outcome = {0: MISSED, 1: CAUGHT}.get(run.exitcode, UNFIT)
    return outcome, failed[0].split(" - ")[0].removeprefix("FAILED ") if failed else ""


def copy_tree(to: Path) -> Path:
    """A copy of what git tracks or would add, links as links."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        source = ROOT / name
        if source.is_symlink() or source.exists():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, to / name, follow_symlinks=False)
    return to


def main() -> int:
    """Plant what is asked for and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--only", default="", help="bugs whose name or file has this")
    parser.add_argument("--jobs", type=int, default=2, help="bugs that are tried side by side")
    parser.add_argument("--save", action="store_true", help="keep which test noticed what")
    asked: Any = parser.parse_args()
    every = [b for path in sorted(ROOT.glob("tests/planted_bugs*.yaml")) for b in read_bugs(path)]
    bugs = [b for b in every if asked.only.lower() in f"{b.name} {b.file}".lower()]
    if not bugs:
        print(f"no bug is called {asked.only!r}", file=sys.stderr)
        return 2
    os.environ["OMP_NUM_THREADS"] = "1"
    multiprocessing.set_forkserver_preload(LIBRARIES)
    trees: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(asked.jobs) as pool:
        for number in range(asked.jobs):
            trees.put(copy_tree(Path(folder) / str(number)))

        def work(bug: Bug) -> tuple[str, str]:
            tree, began = trees.get(), time.monotonic()
            try:
                outcome, by = try_out(bug, tree)
            finally:
                trees.put(tree)
            print(f"{outcome:<12} {bug.name}, {time.monotonic() - began:.0f} s {by}", flush=True)
            return outcome, by

        found = dict(zip([b.name for b in bugs], pool.map(work, bugs), strict=True))
    if asked.save:
        before = yaml.safe_load(NOTICED.read_text())
        now = {name: by for name, (outcome, by) in found.items() if outcome == CAUGHT and by}
        NOTICED.write_text(yaml.safe_dump(before | now, allow_unicode=True, width=200))
    caught = sum(outcome == CAUGHT for outcome, _ in found.values())
    for name, (outcome, _) in found.items():
        if outcome != CAUGHT:
            print(f"{outcome}: {name}")
    print(f"{caught} of {len(found)} planted bugs caught ({caught / len(found):.1%})")
    return 0 if caught >= BAR * len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
