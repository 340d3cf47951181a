"""Every command that writes, killed before each of its file operations and started again.

An audit hook sees every file operation of Python. What a process leaves that is killed before one
is what lies on the disk at that moment; so the folder is copied there, and each copy that differs
from those before it is what a second start finds.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import simulate
from helpers.bench import Bench
from helpers.pdfs import need_weasyprint

from robustbench_coss import cli
from robustbench_coss.evaluations.running import draft, job
from robustbench_coss.files import is_leftover
from robustbench_coss.pretrain import monitors
from robustbench_coss.records.record import Record

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink"}
CHANGES |= {"os.chmod", "os.truncate"}

PRETRAIN = (
    "pretrain --method simclr --device cpu --dataset parts --width 0.0625 --image-size 16 "
    "--limit 32 --batch-size 16 --epochs 2 --set monitor_every=2 --set options.hidden=16 "
    "--set options.dim=8 --out"
)
SWEEP = """recipe: null
base: {method: simclr, dataset: parts, width: 0.0625, size: 16, limit: 16, batch_size: 16,
  epochs: 1, options: {hidden: 16, dim: 8}}
grid: {seed: [0, 1]}
"""
EVAL = "eval run --limit 20 --probe-train 40 --device cpu"
PREPARE = (
    f"{PRETRAIN} run",
    f"{EVAL} --suite clean,crop --seed 1",
    f"{EVAL} --results other --suite clean",
    "submit run --results other --with-encoder --out bundle.zip",
    "site --results other --out old_site",
)
COMMANDS = {
    "pretrain": f"{PRETRAIN} run2",
    "sweep": "sweep sweep.yaml --device cpu --out runs",
    "eval": f"{EVAL} --suite clean,crop --results new",
    "eval over other records": f"{EVAL} --suite clean,crop --force",
    "leaderboard": "leaderboard --results study",
    "leaderboard --out": "leaderboard --results study --models BYOL,CO-BYOL --out table.md",
    "compare": "compare BYOL CO-BYOL --results study --out compare.csv",
    "claims": "claims --results study --out claims.json",
    "plot": "plot --results study --figure summary --out figures",
    "site": "site --results study --out site",
    "site over another": "site --results study --out old_site",
    "report": "report --results study --out report.html",
    "report as PDF": "report --results study --out report.pdf",
    "export": "export run --format timm --out timm.safetensors",
    "export to ONNX": "export run --format onnx --out run.onnx",
    "submit": "submit run --results other --with-encoder --out bundle2.zip",
    "verify": "verify bundle.zip --cells 1 --seed 0 --device cpu",
    "show": "show run --index 3 --out shown.png",
    "arch": "arch rf9_resnet18 --width 0.0625 --image-size 16 --picture arch.png",
}
# Not `sweep --jobs`: its runs are written by processes of their own, which no hook here sees; each
# is what `pretrain` writes.
Tree = dict[str, str]


@dataclass
class Watch:
    """File operations below a folder, and what the folder held before each.

    Args:
        keep: where copies of the folder go.

    Attributes:
        states: copies of the folder, by what they hold.
        versions: hashes of what got its name by renaming, whole, by that name.
        torn: what was opened for writing under its own name, where it can be seen half written.
    """

    root: Path
    keep: Path
    operations: int = 0
    states: dict[str, Path] = field(default_factory=dict)
    versions: dict[str, set[str]] = field(default_factory=dict)
    torn: list[str] = field(default_factory=list)
    busy: bool = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.busy or not arguments or not isinstance(arguments[0], str | os.PathLike):
            return
        if not (event in CHANGES or (event == "open" and writes(*arguments[1:]))):
            return
        path = Path(os.path.abspath(arguments[0]))
        if not path.is_relative_to(self.root) or (event == "open" and path.is_dir()):
            return  # opened to make a file there, which comes as an event of its own
        self.busy = True
        try:
            self.operations += 1
            self._keep()
            name = path.relative_to(self.root)
            apart = "tensorboard" in name.parts or name.parts[:1] == ("tmp",)
            if event == "open" and not is_leftover(path) and not apart:
                self.torn.append(str(name))
            elif event == "os.rename" and path.is_file():
                to = Path(os.path.abspath(arguments[1])).relative_to(self.root)
                self.versions.setdefault(str(to), set()).add(digest(path))
        finally:
            self.busy = False

    def _keep(self) -> None:
        found = tree(self.root, leftovers=True)
        # What exactly lies in the temporary folder is all one: it is to go.
        key = repr(
            sorted({("tmp", "") if k.startswith("tmp/") else (k, v) for k, v in found.items()})
        )
        if key not in self.states:
            self.states[key] = copy = self.keep / str(len(self.states))
            shutil.copytree(self.root, copy, symlinks=True)


def writes(mode: str | None, flags: int | None) -> bool:
    """Whether a file is opened for writing."""
    return bool((flags or 0) & WRITING or set(mode or "") & set("wxa+"))


_watch: list[Watch] = []
_done: list[tuple[str, int, int]] = []


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watch:
        _watch[0](event, arguments)


@contextmanager
def watched(root: Path, keep: Path) -> Iterator[Watch]:
    _watch.append(Watch(root, keep))
    try:
        yield _watch[0]
    finally:
        _watch.clear()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(root: Path, leftovers: bool = False) -> Tree:
    """Files below a folder with their hashes, TensorBoard's apart: nothing reads them later."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if "tensorboard" in name.parts:
            continue
        if is_leftover(path):
            if leftovers:
                found[str(name.with_name("leftover"))] = ""
        elif path.is_file():
            found[str(name)] = digest(path)
        elif leftovers:
            found[str(name)] = "folder"
    return found


class Frozen(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime(2026, 1, 2, 3, 4, 5, tzinfo=tz)


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that gives what it gave at first."""
    given: list[Any] = []

    def call(*arguments: Any, **more: Any) -> Any:
        if not given:
            given.append(function(*arguments, **more))
        return given[0]

    return call


@pytest.fixture(scope="module")
def begun(
    tmp_path_factory: pytest.TempPathFactory,
    small_bank: None,
    few_pictures: dict[str, int],
) -> Iterator[Path]:
    """A folder with what the commands start from: a run and records, real and simulated."""
    root = tmp_path_factory.mktemp("begun") / "work"
    (root / "tmp").mkdir(parents=True)
    (root / "sweep.yaml").write_text(SWEEP)
    for method in ("byol", "co-byol"):
        simulate.save(root / "study", simulate.clean(0.5, method=method))
    # Brings wandb, which makes temporary folders of its own when it is first loaded.
    import_module("robustbench_coss.pretrain.methods.byol")
    sys.addaudithook(hook)  # for the rest of the process, and idle but here
    clock = SimpleNamespace(monotonic=lambda: 0.0, perf_counter=lambda: 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("tempfile.tempdir", str(root / "tmp"))
        patch.setattr(monitors, "time", clock)
        patch.setattr(job, "time", clock)
        patch.setattr(draft, "datetime", Frozen)
        # Takes seconds and is the same each time; how it is written is what is looked at.
        patch.setattr(torch.onnx, "export", once(torch.onnx.export))
        for command in PREPARE:
            cli.app(command.split(), standalone_mode=False)
        shutil.copytree(root, root.with_name("begun"))
        yield root


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_killed_loses_nothing_and_ends_as_if_undisturbed(
    name: str, begun: Path, bench: Bench, tmp_path: Path
) -> None:
    if name == "report as PDF":
        need_weasyprint()
    root = begun
    put(root.with_name("begun"), root)
    words = COMMANDS[name].split()
    before = tree(root)
    with watched(root, tmp_path) as watch:
        outcome = bench(*words)
    assert outcome.code == 0, outcome.err
    assert watch.torn == [], "written under their own names"
    undisturbed = tree(root)
    assert watch.operations > 0
    for number, state in enumerate(watch.states.values()):
        where = f"killed in state {number} of {len(watch.states)}"
        put(state, root)
        now = tree(root)
        for path, found in now.items():
            if path.startswith("tmp/"):  # where nobody looks for anything
                continue
            known = watch.versions.get(path, set()) | {before.get(path)}
            assert found in known, f"{where}: {path} is torn"
        lost = (before.keys() & undisturbed.keys()) - now.keys()
        assert not lost, f"{where}: lost {lost}"
        restarted = bench(*again(words, root))
        assert restarted.code == 0, (where, restarted.err)
        if words[0] not in ("pretrain", "sweep"):  # which tell what they go on with
            assert restarted.out == outcome.out, where
        ends = tree(root)
        assert ends == undisturbed, (where, ends.items() ^ undisturbed.items())
        assert [p for p in root.rglob("*") if is_leftover(p)] == [], where
        assert list((root / "tmp").iterdir()) == [], where
    _done.append((name, watch.operations, len(watch.states)))


def test_an_evaluation_killed_before_its_record_ends_with_it_and_its_numbers(
    begun: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(begun.with_name("begun"), begun)
    words = f"{EVAL} --suite clean --results new".split()
    undisturbed, files = bench(*words), tree(begun)
    put(begun.with_name("begun"), begun)
    write = draft.write_record

    def killed(path: Path, record: Record, lines: dict[str, str]) -> None:
        if "partial" not in path.name:
            raise SystemExit(9)
        write(path, record, lines)

    with monkeypatch.context() as patch:
        patch.setattr(draft, "write_record", killed)
        assert bench(*words).code == 9
    (left,) = (begun / "new").rglob("*.json")
    assert left.name == "clean.partial.json"  # with every condition
    again = bench(*words)
    assert (again.code, again.out) == (0, undisturbed.out)
    assert "Clean top-1" in again.out
    assert tree(begun) == files


def test_no_command_that_writes_is_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    reading = {"list", "doctor", "zoo"}
    several = {"quickstart"}  # calls pretrain, eval, leaderboard and plot
    known = {str(command.name) for command in cli.app.registered_commands}
    assert {words.split()[0] for words in COMMANDS.values()} == known - reading - several
    with capfd.disabled():
        print(
            f"\n{len(_done)} commands killed before each of {sum(n for _, n, _ in _done)} file "
            f"operations: {sum(n for *_, n in _done)} different states, each started again and "
            "ended as if undisturbed"
        )


def again(words: list[str], root: Path) -> list[str]:
    """How a user starts a command again: a run that has begun asks for --resume."""
    if words[0] == "pretrain" and (root / words[-1] / "recipe.yaml").exists():
        return [*words, "--resume"]
    return words


def put(copy: Path, root: Path) -> None:
    """Let a copy take the folder's place."""
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(copy, root, symlinks=True, dirs_exist_ok=True)
