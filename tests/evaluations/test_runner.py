from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import FrozenInstanceError, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import typer
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

from robustbench_coss import registry
from robustbench_coss.cli.doctor import doctor, list_
from robustbench_coss.cli.evaluate import evaluate
from robustbench_coss.datasets import parts
from robustbench_coss.datasets.base import ArraySet
from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes.features import batches
from robustbench_coss.evaluations.probes.linear import ProbeConfig
from robustbench_coss.evaluations.progress import ConsoleProgress
from robustbench_coss.evaluations.protocol import BaseSuite, Batch, Condition, Subject
from robustbench_coss.evaluations.running import draft, job, runner
from robustbench_coss.evaluations.running.draft import partial_path
from robustbench_coss.evaluations.running.request import Evaluation, Once
from robustbench_coss.evaluations.running.runner import (
    check_run,
    evaluate_run,
    evaluate_stream,
    suite_names,
)
from robustbench_coss.evaluations.running.units import Unit
from robustbench_coss.machine.executors import attempt
from robustbench_coss.models.checkpoint import build_encoder, load_checkpoint, save_encoder
from robustbench_coss.records.about import SuiteAbout, about_of
from robustbench_coss.records.record import (
    Axis,
    Cell,
    Check,
    Metric,
    Record,
    find_records,
    read_record,
)
from robustbench_coss.seeds import uniform

CPU = torch.device("cpu")


class ToyEncoder(Encoder):
    """One convolution on 8 px images."""

    def __init__(self, size: int = 8, width: float = 1.0) -> None:
        super().__init__(InputSpec(size), local_dim=6, dim=6)
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 6, 2, stride=2)

    def local(self, x: Tensor) -> Tensor:
        return F.relu(self.convolution(self.normalise(x)))


class ToyData:
    """Three classes, told apart by their brightest channel in noise; one test label is missing."""

    name = "toy-data"
    default_size = 8
    sizes: ClassVar = {"train": 90, "validation": 30, "test": 61}

    def open(self, role: str, size: int, root: Path, download: bool) -> ArraySet:
        count = self.sizes[role]
        labels = torch.arange(count) % 3
        g = torch.Generator().manual_seed(len(role))
        pixels = torch.randint(0, 200, (count, 3, 8, 8), generator=g)
        pixels[torch.arange(count), labels] += 20
        if role == "test":
            labels[7] = -1
        return ArraySet(
            self.name, role, pixels.to(torch.uint8), labels, tuple(f"{role}{i}" for i in "abc"), 8
        )

    def missing(self, root: Path) -> str | None:
        return "build it with `make toys`" if root.name == "empty" else None


class OtherData(ToyData):
    name = "other-data"


TOY_DATA, OTHER_DATA = ToyData(), OtherData()


class ToySuite(BaseSuite):
    """Accuracy and margin under keyed pixel noise; logs what it is asked and can be interrupted."""

    name = "toy"
    axis = Axis("noise")
    log: ClassVar[list[tuple[str, tuple[int, ...]]]] = []
    events: ClassVar[list[str]] = []
    interrupt_at: ClassVar[str] = ""
    settings: ClassVar[dict[str, Any]] = {"noise": "uniform"}

    def config(self) -> dict[str, Any]:
        return self.settings

    def conditions(self, subject: Subject) -> list[Condition]:
        return [Condition(f"noise@{level}", "noise", level) for level in (0, 1, 2)]

    def prepare(self, subject: Subject, reference: Batch, image_size: int) -> None:
        assert image_size == 8
        assert reference.images.shape == (90, 3, 8, 8)
        assert 0.5 < float(reference.images.max()) <= 1
        self.events.append("prepare")

    @torch.inference_mode()
    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        if condition.name == self.interrupt_at:
            raise KeyboardInterrupt
        self.log.append((condition.name, tuple(batch.index)))
        draws = uniform(np.asarray(batch.index), 3 * 8 * 8, seed, "toy", condition.name)
        noise = torch.from_numpy(draws).float().view(-1, 3, 8, 8)
        logits = subject(batch.images + 0.2 * condition.level * noise)
        top = logits.gather(1, batch.labels[:, None])[:, 0]
        return {"correct": logits.argmax(dim=1) == batch.labels, "logit": top.double()}

    def metrics(self, conditions: Sequence[Condition]) -> list[Metric]:
        names = tuple(c.name for c in conditions)
        return [
            Metric("toy_top1", "Toy top-1", "correct", names),
            Metric("toy_logit", "Toy logit", "logit", names, percent=False),
            Metric("hidden", "Hidden", "correct", names, headline=False),
        ]

    def checks(self, cells: Sequence[Cell]) -> list[Check]:
        return [Check("all there", len(cells) == 4, f"{len(cells)} of 4 conditions")]

    def close(self) -> None:
        self.events.append("close")


class LinkedSuite(ToySuite):
    """An image that was wrong once stays wrong; says what it was told of earlier conditions."""

    name = "linked"
    linked = True

    @torch.inference_mode()
    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        found = super().measure(subject, batch, condition, seed)
        for earlier in batch.earlier.values():
            found["correct"] &= earlier["correct"]
        told = torch.full((len(batch.index),), len(batch.earlier))
        return {"correct": found["correct"], "told": told}

    def metrics(self, conditions: Sequence[Condition]) -> list[Metric]:
        names = tuple(c.name for c in conditions)
        return [Metric("ever_wrong", "Ever wrong", "correct", (*names, "all"))]

    def summary(self) -> dict[str, Any]:
        return {"colours": ["red", "green"]}

    def derived(self, cells: Sequence[Cell]) -> list[Cell]:
        return [Cell("all", "noise", 3, {"correct": cells[-1].outcomes["correct"]})]


class ShySuite(ToySuite):
    """Measures nothing."""

    name = "shy"

    def prepare(self, subject: Subject, reference: Batch, image_size: int) -> None:
        super().prepare(subject, reference, image_size)
        raise CossError("this model is too much for me")


class WordySuite(ToySuite):
    """Has a wording of its own, and options."""

    name = "wordy"
    about = SuiteAbout(title="Noise of toys", panels={"noise": "Noise"}, hidden=("b",))

    def __init__(self, levels: Any = (1, 2), root: Path | None = None) -> None:
        self.levels, self.root = levels, root


class BadSuite(ToySuite):
    """Gives one outcome for the whole batch, as no suite may."""

    name = "bad"

    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        return {"correct": torch.tensor([True])}


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toys above as an installed third-party package, found as any other is."""
    info = tmp_path / "site" / "coss_toys-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: coss-toys\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[robustbench_coss.suites]\ntoy = {__name__}:ToySuite\nbad = {__name__}:BadSuite\n"
        f"linked = {__name__}:LinkedSuite\nshy = {__name__}:ShySuite\n"
        f"wordy = {__name__}:WordySuite\n"
        f"[robustbench_coss.encoders]\ntoy-encoder = {__name__}:ToyEncoder\n"
        f"[robustbench_coss.datasets]\ntoy-data = {__name__}:TOY_DATA\n"
        f"other-data = {__name__}:OTHER_DATA\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    registry._entries.cache_clear()
    ToySuite.log.clear()
    ToySuite.events.clear()
    yield
    registry._entries.cache_clear()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "runs" / "toy-run")


def make_run(folder: Path, **changes: Any) -> Path:
    encoder = ToyEncoder()
    metadata = {
        "arch": "toy-encoder",
        "width": 1.0,
        "size": 8,
        "dataset": "toy-data",
        "method": "byol",
        "encoder": "online",
        "training": {"epochs": 3},
    }
    save_encoder(folder / "encoder.safetensors", encoder, metadata | changes)
    return folder


def measure(run: Path, suites: Sequence[str] = ("toy",), **options: Any) -> Record:
    beside = {key: options.pop(key, None) for key in ("progress", "executor")}
    options = {"results": run.parent.parent / "results", "device": "cpu"} | options
    options.setdefault("probe", ProbeConfig())
    ((path, record), *_) = evaluate_run(run, Evaluation(suites, **options), **beside).items()
    on_disk = read_record(path)
    assert on_disk.digest() == record.digest()
    return on_disk


def interrupted(
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
    suites: Sequence[str] = ("toy",),
    **options: Any,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ToySuite, "interrupt_at", at)
        with pytest.raises(KeyboardInterrupt):
            measure(run, suites, **options)


def test_a_record_says_what_was_measured_on_what_and_how(run: Path) -> None:
    record = measure(run, limit=40, seed=3)
    assert record.complete
    assert [c.condition for c in record.cells] == ["noise@0", "noise@1", "noise@2"]
    assert (record.suite, record.suite_config, record.seed) == ("toy", {"noise": "uniform"}, 3)
    model = record.model
    assert model["name"] == "toy-run"
    assert model["parameters"] == 3 * 6 * 2 * 2 + 6
    assert model["training"] == {"epochs": 3}
    assert (model["method"], model["encoder"], model["dataset"]) == ("byol", "online", "toy-data")
    assert model["probe"]["settings"]["kind"] == "logistic"
    assert 0 <= model["probe"]["train_top1"] <= 1
    assert record.dataset["n"] == record.dataset["limit"] == 40
    assert (record.dataset["classes"], record.dataset["size"]) == (3, 8)
    assert record.checks == [Check("all there", False, "3 of 4 conditions")]
    assert record.created.endswith("+00:00")
    assert "thread" in record.device
    assert "torch" in record.versions


def test_outcomes_are_those_of_encoder_and_probe_on_the_samples_listed(run: Path) -> None:
    from robustbench_coss.evaluations.probes.linear import probe_path

    record = measure(run, batch_size=7)
    cached = next((run.parent.parent / "results" / "probes").iterdir())
    assert cached == probe_path(run.parent.parent / "results", record.model["probe"]["key"])
    from safetensors.torch import load_file

    weights = load_file(cached)
    test = TOY_DATA.open("test", 8, Path(), False)
    index = torch.from_numpy(record.index).long()
    with torch.no_grad():
        features = load_checkpoint(run).encoder(test.pixels[index].float() / 255)
    logits = features @ weights["weight"].T + weights["bias"]
    assert np.array_equal(record.label, test.labels[index].numpy())
    expected = (logits.argmax(dim=1) == test.labels[index]).numpy()
    assert 0 < expected.mean() < 1
    assert np.array_equal(record.column("noise@0", "correct"), expected)


def test_columns_are_stored_as_bool_and_float32(run: Path) -> None:
    record = measure(run)
    assert record.column("noise@1", "correct").dtype == np.bool_
    assert record.column("noise@1", "logit").dtype == np.float32


def test_all_labelled_test_images_are_measured_and_the_unlabelled_one_is_not(run: Path) -> None:
    record = measure(run)
    assert sorted(record.index.tolist()) == [i for i in range(61) if i != 7]
    assert (record.label >= 0).all()


def test_the_images_of_a_smaller_limit_are_the_first_of_a_larger_one(run: Path) -> None:
    small, large = measure(run, limit=10), measure(run, limit=25)
    assert small.index.tolist() == large.index.tolist()[:10]
    for cell in small.cells:
        again = large.column(cell.condition, "logit")[:10]
        np.testing.assert_allclose(cell.outcomes["logit"], again, rtol=1e-5, atol=1e-6)


def test_batch_size_does_not_change_outcomes(run: Path) -> None:
    whole = measure(run, batch_size=256)
    pieces = measure(run, batch_size=7, force=True)
    assert whole.key == pieces.key
    for cell in whole.cells:
        assert np.array_equal(cell.outcomes["correct"], pieces.column(cell.condition, "correct"))
        np.testing.assert_allclose(
            cell.outcomes["logit"], pieces.column(cell.condition, "logit"), rtol=1e-5, atol=1e-5
        )


def test_images_are_asked_for_in_batches_and_at_most_one_ahead() -> None:
    class Counting(ArraySet):
        asked: ClassVar[list[int]] = []

        def images(self, indices: Sequence[int]) -> Tensor:
            self.asked.append(len(indices))
            return super().images(indices)

    images = Counting(
        "c", "test", torch.zeros(100, 3, 8, 8, dtype=torch.uint8), torch.arange(100), ("a",), 8
    )
    seen: list[int] = []
    for number, batch in enumerate(batches(images, list(range(100)), 8, CPU), start=1):
        assert len(images.asked) <= number + 1
        assert torch.equal(batch.labels, torch.tensor(batch.index))
        seen += batch.index
    assert seen == list(range(100))
    assert max(images.asked) == 8


def test_pixels_reach_the_model_as_floats_from_0_to_1() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    images = ArraySet("p", "test", pixels, torch.tensor([0]), ("a",), 1)
    (batch,) = batches(images, [0], 4, CPU)
    assert batch.images.dtype == torch.float32
    torch.testing.assert_close(batch.images.flatten(), torch.tensor([0.0, 0.2, 1.0]))


def test_an_interrupted_evaluation_continues_at_the_next_condition(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(run, monkeypatch, "noise@1")
    assert {name for name, _ in ToySuite.log} == {"noise@0"}
    ToySuite.log.clear()
    continued = measure(run)
    assert {name for name, _ in ToySuite.log} == {"noise@1", "noise@2"}
    undisturbed = measure(run, results=run.parent / "elsewhere")
    assert continued.digest() == undisturbed.digest()
    assert continued.digest() != measure(run, seed=1).digest()


def test_the_partial_record_is_removed_when_the_record_is_complete(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = run.parent.parent / "results"
    interrupted(run, monkeypatch, "noise@2")
    (partial,) = results.rglob("*.partial.json")
    assert [c.condition for c in read_record(partial).cells] == ["noise@0", "noise@1"]
    assert list(find_records(results)) == []
    measure(run)
    ((path, _),) = find_records(results)
    assert partial == partial_path(path)
    assert not partial.exists()


@pytest.mark.parametrize("change", ["seed", "limit", "config", "probe", "versions", "damage"])
def test_a_partial_record_of_another_measurement_is_not_continued(
    run: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    interrupted(run, monkeypatch, "noise@2")
    ToySuite.log.clear()
    options: dict[str, Any] = {}
    if change == "seed":
        options["seed"] = 1
    elif change == "limit":
        options["limit"] = 12
    elif change == "config":
        monkeypatch.setattr(ToySuite, "settings", {"noise": "other"})
    elif change == "probe":
        options["probe"] = ProbeConfig(l2_values=6)
    elif change == "versions":
        monkeypatch.setattr(draft, "versions", lambda: {"python": "4.0"})
    else:
        (partial,) = (run.parent.parent / "results").rglob("*.partial.json")
        partial.write_text(partial.read_text()[:200])
    measure(run, **options)
    assert {name for name, _ in ToySuite.log} == {"noise@0", "noise@1", "noise@2"}


def test_a_record_continued_on_another_device_names_both(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "device_name", lambda _: "abacus")
    interrupted(run, monkeypatch, "noise@1")
    monkeypatch.setattr(job, "device_name", lambda _: "slide rule")
    assert measure(run).device == "abacus; slide rule"


def test_what_is_up_to_date_is_measured_again_only_when_forced(run: Path) -> None:
    first = measure(run)
    ToySuite.log.clear()
    ToySuite.events.clear()
    again = measure(run)
    assert ToySuite.log == []
    assert ToySuite.events == []
    assert again.created == first.created
    forced = measure(run, force=True)
    assert len(ToySuite.log) == 3
    assert forced.digest() == first.digest()


@pytest.mark.parametrize("change", ["checkpoint", "version", "damage"])
def test_a_record_that_no_longer_holds_is_measured_again(
    run: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    measure(run)
    ToySuite.log.clear()
    if change == "checkpoint":
        make_run(run, method="other")
    elif change == "version":
        monkeypatch.setattr(ToySuite, "version", 2)
    else:
        ((path, _),) = find_records(run.parent.parent / "results")
        path.write_text(path.read_text()[:300])
    record = measure(run)
    assert len(ToySuite.log) == 3
    assert record.complete


def test_an_up_to_date_record_does_not_need_the_probe_again(run: Path) -> None:
    measure(run)
    (probe,) = (run.parent.parent / "results" / "probes").iterdir()
    probe.unlink()
    measure(run)
    assert not probe.exists()


def test_suites_are_closed_after_success_and_after_an_interrupt(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(run, monkeypatch, "noise@1")
    assert ToySuite.events == ["prepare", "close"]
    measure(run)
    assert ToySuite.events == ["prepare", "close"] * 2


def test_a_suite_whose_outcomes_are_not_one_per_sample_is_named(run: Path) -> None:
    with pytest.raises(CossError, match=r"suite 'bad' gave columns .* for 60 images"):
        measure(run, ["bad"])
    assert ToySuite.events[-1] == "close"


def test_another_data_set_is_refused_unless_transfer_is_meant(run: Path) -> None:
    with pytest.raises(CossError, match=r"pretrained on 'toy-data', not 'other-data'; add --trans"):
        measure(run, dataset="other-data")
    assert ToySuite.log == []
    record = measure(run, dataset="other-data", transfer=True)
    assert record.dataset["name"] == "other-data"
    assert record.model["dataset"] == "toy-data"
    assert record.model["probe"]["dataset"] == "other-data"


def test_a_checkpoint_without_a_data_set_needs_one_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "orphan", dataset=None)
    with pytest.raises(CossError, match="name a data set with --dataset"):
        measure(run)
    assert measure(run, dataset="other-data").model["dataset"] is None


def test_a_file_in_the_way_of_the_results_stops_before_any_measurement(run: Path) -> None:
    results = run.parent / "results"
    results.write_text("")
    with pytest.raises(CossError, match="a file is in the way"):
        measure(run, results=results)
    assert ToySuite.log == []


def test_an_encoder_that_gives_nan_is_named(run: Path) -> None:
    encoder = ToyEncoder()
    nn.init.constant_(encoder.convolution.bias, float("nan"))  # type: ignore[arg-type]
    metadata = {"arch": "toy-encoder", "width": 1.0, "size": 8, "dataset": "toy-data"}
    save_encoder(run / "encoder.safetensors", encoder, metadata)
    with pytest.raises(CossError, match="NaN or infinite"):
        measure(run)
    assert ToySuite.log == []


class NanHead(nn.Module):
    """Knows the three toy classes, but has no finite answer to the image it sees first."""

    def forward(self, features: Tensor) -> Tensor:
        logits = 100 * features[:, :3]
        logits[0] = float("nan")
        return logits


def with_head(run: Path, head: nn.Module, classes: int) -> Any:
    return lambda: replace(load_checkpoint(run), head=head, classes=classes)


def test_outputs_that_are_not_finite_mark_the_cell_and_count_as_wrong(run: Path) -> None:
    model = with_head(run, NanHead(), 3)
    asked = Evaluation("crop", results=run / "r", device="cpu", batch_size=20)
    (record,) = evaluate_run(model, asked).values()
    cells = record.cells
    assert len(cells) == 13
    assert {cell.problem for cell in cells[1:]} == {"6 outputs of the model were NaN or infinite"}
    for cell in cells:
        assert not cell.outcomes["correct"][[0, 20, 40]].any()
        assert not cell.outcomes["agrees"][[0, 20, 40]].any()
        assert cell.outcomes["agrees"].any()


def test_a_model_with_a_head_of_its_own_is_measured_with_it_and_no_probe(run: Path) -> None:
    head = nn.Linear(6, 3)
    asked = Evaluation("toy", results=run / "r", device="cpu")
    (record,) = evaluate_run(with_head(run, head, 3), asked).values()
    assert not (run / "r" / "probes").exists() or not any((run / "r" / "probes").iterdir())
    assert record.model["probe"] == {"own_head": True}
    test = TOY_DATA.open("test", 8, Path(), False)
    index = torch.from_numpy(record.index).long()
    with torch.no_grad():
        logits = head(load_checkpoint(run).encoder(test.pixels[index].float() / 255))
    expected = (logits.argmax(dim=1) == test.labels[index]).numpy()
    assert np.array_equal(record.column("noise@0", "correct"), expected)


def test_a_head_for_another_number_of_classes_is_refused_with_both_numbers(run: Path) -> None:
    model = with_head(run, nn.Linear(6, 1000), 1000)
    with pytest.raises(CossError, match=r"into 1000 classes and data set 'toy-data' has 3"):
        evaluate_run(model, Evaluation("toy", results=run / "r"))
    (record,) = evaluate_run(model, Evaluation("toy", results=run / "r", transfer=True)).values()
    assert record.model["probe"]["n_train"] == 90


def test_a_label_beyond_the_classes_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_a_fourth(self: ToyData, role: str, size: int, root: Path, download: bool) -> ArraySet:
        made = ToyData().open(role, size, root, download)
        made.labels[5] = 3
        return made

    monkeypatch.setattr(OtherData, "open", with_a_fourth)
    with pytest.raises(CossError, match=r"has 3 classes but a test image with label 3"):
        measure(run, dataset="other-data", transfer=True)


class Picky(ToyEncoder):
    def local(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 16:
            raise AssertionError(f"Input height ({x.shape[-2]}) doesn't match model (16).")
        return super().local(x)


def test_a_model_that_refuses_the_image_size_is_told_in_one_line(run: Path) -> None:
    model = partial(replace, load_checkpoint(run), encoder=Picky())
    with pytest.raises(CossError, match=r"does not take images of 8 px \(Input height.*--size$"):
        evaluate_run(model, Evaluation("toy", results=run / "r", device="cpu"))


def test_a_linked_suite_is_told_its_earlier_outcomes_for_the_same_images(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = measure(run, ["linked"], batch_size=7)
    first, second, third = (cell.outcomes for cell in record.cells[:3])
    assert [c["told"].tolist() for c in (first, second, third)] == [[k] * 60 for k in range(3)]
    plain = measure(run)
    expected = plain.column("noise@0", "correct")
    for cell, alone in zip((first, second, third), plain.cells, strict=True):
        expected = expected & alone.outcomes["correct"]
        assert np.array_equal(cell["correct"], expected)
    # A continued one is told what was measured before the interruption.
    interrupted(run, monkeypatch, "noise@2", suites=["linked"], results=run / "other")
    continued = measure(run, ["linked"], results=run / "other", batch_size=7)
    assert continued.digest() == record.digest()


def test_derived_cells_and_facts_about_the_model_are_in_the_record(run: Path) -> None:
    record = measure(run, ["linked"])
    assert [cell.condition for cell in record.cells] == ["noise@0", "noise@1", "noise@2", "all"]
    assert record.checks == [Check("all there", True, "4 of 4 conditions")]
    assert record.extra == {"colours": ["red", "green"]}


def test_the_suites_wording_and_the_options_it_was_given_are_in_the_record(run: Path) -> None:
    given = {"levels": (0.5, 1), "root": run.parent / "pictures"}
    record = measure(run, ["wordy"], options={"wordy": given, "toy": {"of another": "suite"}})
    assert record.about == {
        "title": "Noise of toys",
        "panels": {"noise": "Noise"},
        "hidden": ["b"],
    }
    assert about_of(record) == WordySuite.about
    assert record.options == {"levels": [0.5, 1], "root": "pictures"}
    plain = measure(run, ["toy"])
    assert (plain.about, plain.options) == ({}, {})


def test_options_that_json_cannot_hold_are_refused_in_one_line(run: Path) -> None:
    with pytest.raises(CossError, match=r"the options of suite 'wordy' cannot be written as JSON"):
        measure(run, ["wordy"], options={"wordy": {"levels": object()}})


def test_a_record_of_schema_2_is_still_up_to_date(run: Path) -> None:
    results = run.parent.parent / "results"
    measure(run)
    ((path, _),) = find_records(results)
    older = json.loads(path.read_text()) | {"schema": 2}
    del older["about"], older["options"]
    path.write_text(json.dumps(older))
    ToySuite.log.clear()
    measure(run)
    assert ToySuite.log == []


def test_a_suite_that_cannot_measure_the_model_stops_no_other(run: Path) -> None:
    message = r"too much for me, or leave it out with --suite toy,linked"
    with pytest.raises(CossError, match=message):
        measure(run, ["toy", "shy", "linked"])
    assert {r.suite for _, r in find_records(run.parent.parent / "results")} == {"toy", "linked"}
    assert ToySuite.events.count("close") == 3


def test_cells_come_as_they_are_measured_and_again_from_the_disk(run: Path) -> None:
    def cells() -> Iterator[str]:
        for done in evaluate_stream(run, Evaluation("linked", results=run / "r", device="cpu")):
            assert done.suite == "linked"
            assert done.cell in done.so_far.cells
            yield done.cell.condition

    stream = cells()
    assert next(stream) == "noise@0"
    assert {name for name, _ in ToySuite.log} == {"noise@0"}
    stream.close()  # enough seen
    assert list(cells()) == ["noise@1", "noise@2", "all"]
    ToySuite.log.clear()
    assert list(cells()) == ["noise@0", "noise@1", "noise@2", "all"]
    assert ToySuite.log == []


def test_two_processes_do_not_measure_one_record(run: Path) -> None:
    asked = Evaluation("toy", results=run / "r", device="cpu")
    stream = evaluate_stream(run, asked)
    next(stream)
    with pytest.raises(CossError, match=r"another process is measuring .*toy\.json; wait for it"):
        evaluate_run(run, asked)
    stream.close()
    evaluate_run(run, asked)


def test_units_in_any_order_and_any_number_leave_the_same_record(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "SHARD", 9)
    asked = []

    def backwards(task: Any, items: Any, /) -> Iterator[Any]:
        for item in reversed(list(items)):
            asked.append(item)
            yield item, attempt(task, item)

    threads = torch.get_num_threads()
    try:
        options: dict[str, Any] = {"batch_size": 5, "results": run / "r"}
        spread = [measure(run, [s], executor=backwards, **options) for s in ("toy", "linked")]
        units = [item for item in asked if isinstance(item, Unit)]
        assert {unit.stop - unit.start for unit in units} == {10}  # whole batches
        assert len(units) == 3 * 6 + 6  # the conditions of a linked group stay together
        here = [measure(run, [s], batch_size=5) for s in ("toy", "linked")]
        assert [r.digest() for r in spread] == [r.digest() for r in here]
    finally:
        torch.set_num_threads(threads)


def test_a_model_is_loaded_once(run: Path) -> None:
    loaded: list[Path] = []

    def load(path: Path) -> Any:
        loaded.append(path)
        return load_checkpoint(path)

    once = Once(partial(load, run))
    asked = Evaluation("toy", results=run / "r", device="cpu")
    check_run(once, asked)
    evaluate_run(once, asked)
    assert loaded == [run]
    again = pickle.loads(pickle.dumps(Once(partial(load_checkpoint, run))))
    assert again().sha256 == load_checkpoint(run).sha256
    assert repr(again) == repr(Once(partial(load_checkpoint, run)))


def test_a_request_is_frozen_and_normalised() -> None:
    request = Evaluation("clean", results="r")
    assert (request.suites, request.results) == (("clean",), Path("r"))
    with pytest.raises(FrozenInstanceError):
        request.seed = 1  # type: ignore[misc]


def test_an_option_that_a_suite_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(CossError, match=r"suite 'corruption' has no option 'sped'; it has: back"):
        job.make_suite("corruption", {"sped": 1})
    with pytest.raises(CossError, match=r"suite 'toy' has no option 'sped'; it has none"):
        job.make_suite("toy", {"sped": 1})


@pytest.mark.parametrize("option", [{"limit": 0}, {"batch_size": 0}, {"limit": -5}])
def test_counts_below_one_are_refused(run: Path, option: dict[str, int]) -> None:
    with pytest.raises(CossError, match="must be at least 1, got"):
        measure(run, **option)


def test_all_stands_for_every_suite_with_the_projects_own_first_in_order() -> None:
    names = suite_names(["all"])
    own = ["clean", "corruption", "occlusion", "adversarial", "crop", "redundancy", "rf"]
    assert names[: len(own)] == own
    assert {"toy", "bad"} <= set(names)
    assert sorted(names) == registry.names("suite")


def test_suites_may_be_repeated_or_separated_by_commas_and_count_once() -> None:
    assert suite_names(["toy, clean", "toy"]) == ["toy", "clean"]


def test_an_unknown_suite_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(CossError, match="did you mean corruption"):
        suite_names(["toy,coruption"])
    with pytest.raises(CossError, match="no suite was named"):
        suite_names([","])


def test_progress_off_a_terminal_prints_lines_sparsely() -> None:
    text = io.StringIO()
    with ConsoleProgress(Console(file=text), every=0.0) as progress:
        progress.plan(10)
        progress.show("model toy: noise@0 (1/3)")
        progress.advance(5)
    assert "model toy: noise@0 (1/3): 5 of 10 images" in text.getvalue()
    quiet = io.StringIO()
    with ConsoleProgress(Console(file=quiet), every=60.0) as progress:
        progress.plan(10)
        progress.advance(10)
    assert quiet.getvalue() == ""


def test_progress_counts_what_is_planned_exactly(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(run, monkeypatch, "noise@1")
    progress = ConsoleProgress(Console(file=io.StringIO()))
    with progress:
        measure(run, progress=progress)
    assert progress.done == progress.total == 2 * 60  # the probe is cached, one condition is done


app = typer.Typer()
app.command("eval")(evaluate)
app.command("list")(list_)
app.command("doctor")(doctor)


def command(*arguments: object) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(a) for a in arguments])


def test_eval_prints_headline_numbers_chance_level_and_the_next_command(run: Path) -> None:
    results = run.parent / "res"
    outcome = command("eval", run, "--suite", "toy", "--results", results, "--device", "cpu")
    assert outcome.exit_code == 0, outcome.output
    ((path, record),) = find_records(results)
    top1 = 100 * np.mean([c.outcomes["correct"].mean() for c in record.cells])
    assert f"Toy top-1 {top1:.1f} %" in outcome.output
    assert "Toy logit" in outcome.output
    assert "Hidden" not in outcome.output
    assert "chance 33.3 %" in outcome.output
    assert "check failed: all there: 3 of 4 conditions" in outcome.output
    assert str(path.parent) in outcome.output.replace("\n", "")
    assert f"coss-bench leaderboard --results {results}" in outcome.output.replace("\n", "")


def test_eval_looks_at_every_run_before_it_measures_one(run: Path) -> None:
    outcome = command("eval", run, run.parent / "typo", "--suite", "toy", "--results", run / "r")
    assert isinstance(outcome.exception, CossError)
    assert "typo does not exist" in str(outcome.exception)
    assert ToySuite.log == []


def test_eval_stops_before_measuring_if_the_data_are_missing(run: Path) -> None:
    outcome = command(
        *("eval", run, "--suite", "toy", "--results", run / "r", "--data-root", run / "empty")
    )
    assert isinstance(outcome.exception, CossError)
    assert "build it with `make toys`" in str(outcome.exception)


@pytest.mark.parametrize("option", ["--limit", "--batch-size", "--probe-train"])
def test_eval_refuses_counts_below_one_by_the_name_of_the_option(run: Path, option: str) -> None:
    outcome = command("eval", run, option, "0")
    assert isinstance(outcome.exception, CossError)
    assert f"{option} must be at least 1, got 0" in str(outcome.exception)


def test_an_interrupted_eval_says_how_to_continue_and_exits_130(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToySuite, "interrupt_at", "noise@1")
    outcome = command("eval", run, "--suite", "toy", "--results", run / "r", "--device", "cpu")
    assert outcome.exit_code == 130
    assert "run the same command again to continue" in outcome.output


def test_list_shows_names_with_the_package_they_come_from() -> None:
    lines = [line.split() for line in command("list").output.splitlines()]
    assert ["suite", "toy", "coss-toys"] in lines
    assert ["suite", "clean", "robustbench-coss"] in lines
    assert ["encoder", "toy-encoder", "coss-toys"] in lines


def test_doctor_exits_1_only_for_what_is_required(tmp_path: Path) -> None:
    where = ("--data-root", tmp_path / "none", "--results", tmp_path / "results")
    healthy = command("doctor", *where)
    assert healthy.exit_code == 0, healthy.output
    assert "✗ data set cifar10" in healthy.output
    (tmp_path / "results").write_text("")
    broken = command("doctor", *where)
    assert broken.exit_code == 1
    assert "broken: results folder" in broken.output


def test_records_are_json_that_any_tool_can_read(run: Path) -> None:
    measure(run)
    ((path, _),) = find_records(run.parent.parent / "results")
    assert json.loads(path.read_text())["dataset"]["name"] == "toy-data"


OWN_SUITES = ("clean", "corruption", "occlusion", "adversarial", "crop", "redundancy", "rf")


@pytest.mark.parametrize("suite", OWN_SUITES)
def test_every_suite_of_the_project_measures_a_small_resnet_on_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suite: str
) -> None:
    for role, count in {"train": 200, "validation": 40, "test": 40}.items():
        monkeypatch.setitem(parts.COUNTS, role, count)
    torch.manual_seed(0)
    encoder = build_encoder("resnet18", size=32, width=0.125)
    metadata = {"arch": "resnet18", "width": 0.125, "size": 32, "dataset": "parts"}
    save_encoder(tmp_path / "runs" / "small" / "encoder.safetensors", encoder, metadata)
    record = measure(tmp_path / "runs" / "small", [suite], limit=3)
    assert record.complete
    assert record.dataset["classes"] == 10
    assert all(len(column) == 3 for cell in record.cells for column in cell.outcomes.values())
    assert any(metric.headline for metric in record.metrics)
    assert all(np.isfinite(record.per_sample(metric)).all() for metric in record.metrics)


def test_force_measures_with_a_probe_that_is_trained_again(run: Path) -> None:
    from safetensors.torch import load_file

    results = run.parent.parent / "results"
    measure(run)
    (cached,) = (results / "probes").iterdir()
    whole, written = load_file(cached), cached.stat().st_mtime_ns
    measure(run, force=True)
    assert cached.stat().st_mtime_ns != written
    assert all(torch.equal(tensor, whole[name]) for name, tensor in load_file(cached).items())
