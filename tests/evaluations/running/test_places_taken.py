"""A record whose place another measurement's names give as well is not lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import toy_suite
from helpers.toy_suite import ToyEncoder
from torch import nn

from robustbench_coss import registry
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.models.checkpoint import Checkpoint


class Spelled(toy_suite.ToyData):
    """Names that give one folder, each with images of its own."""

    def __init__(self, name: str, count: int) -> None:
        self.name, self.sizes = name, {**toy_suite.ToyData.sizes, "test": count}

    def variant(self, option: str) -> Spelled:
        return Spelled(f"{self.name}:{option}", 20)


SPELLED = {
    "a": Spelled("a", 10),
    "a/b": Spelled("a/b", 30),
    "a b": Spelled("a b", 40),
    "a-b": Spelled("a-b", 50),
}


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    load = registry.load
    monkeypatch.setattr(
        registry,
        "load",
        lambda kind, name: SPELLED[name] if name in SPELLED else load(kind, name),
    )


def net(name: str = "net", sha256: str = "ab" * 32, recognised: bool = True) -> Checkpoint:
    about = {"arch": "toy", "width": 1.0, "size": 8, "dataset": None, "training": {}}
    made = Checkpoint(ToyEncoder(), name, None, sha256, about, nn.Linear(6, 3), 3)
    return made if recognised else Checkpoint(**{**vars(made), "recognised": False})


def measure(results: Path, model: Checkpoint, data: str, **options: object) -> Path:
    request = Evaluation("toy", dataset=data, results=results, **options)  # type: ignore[arg-type]
    (path,) = evaluate_run(lambda: model, request)
    return path


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("recognised", [False, True])
def test_data_sets_of_which_one_would_replace_the_other_are_refused(
    force: bool, recognised: bool, tmp_path: Path
) -> None:
    path = measure(tmp_path, net(recognised=recognised), "a/b")
    before = path.read_bytes()
    for name in ("a b", "a-b", "a:b"):
        with pytest.raises(CossError, match=f"holds toy of net on a/b, .* toy of net on {name}; "):
            measure(tmp_path, net(recognised=recognised), name, force=force)
    assert path.read_bytes() == before
    assert measure(tmp_path / "other", net(recognised=recognised), "a b").name == path.name
    measure(tmp_path, net(recognised=recognised), "a/b", limit=20)  # its own is measured again
    assert path.read_bytes() != before


def test_models_of_which_one_would_replace_the_other_are_refused(tmp_path: Path) -> None:
    path = measure(tmp_path, net("a b"), "toy-data")
    before = path.read_bytes()
    for other in (net("a-b"), net("a b", "ab" * 4 + "cd" * 28)):
        with pytest.raises(CossError, match="holds toy of a b on toy-data"):
            measure(tmp_path, other, "toy-data", limit=20)
    assert path.read_bytes() == before


def test_an_unfinished_record_is_not_lost_to_another_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy_suite.ToySuite, "interrupt_at", "noise@2")
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path, net(), "a/b")
    (partial,) = tmp_path.rglob("toy.partial.json")
    before = partial.read_bytes()
    monkeypatch.setattr(toy_suite.ToySuite, "interrupt_at", "")
    with pytest.raises(CossError, match=r"toy\.partial\.json holds toy of net on a/b"):
        measure(tmp_path, net(), "a b")
    assert partial.read_bytes() == before
