"""Precisions of an evaluation: what is computed in them, what records say, what is up to date."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ROOT, simulate
from helpers.toy_suite import ToyEncoder, ToySuite, measure
from scipy.special import expit
from torch import nn
from torch.nn import functional as F

from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.encoders.base import Encoder, multiply_accumulates
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.running import job, precision
from robustbench_coss.evaluations.running.precision import Arithmetic, Lowered, lowered
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.evaluations.submissions.submit import submit
from robustbench_coss.evaluations.submissions.verify import Plan, verify
from robustbench_coss.machine.executors import in_process
from robustbench_coss.machine.precision import tf32
from robustbench_coss.models.checkpoint import Checkpoint, build_encoder, load_checkpoint
from robustbench_coss.models.load import load_model
from robustbench_coss.records.commands import commands_of
from robustbench_coss.records.confidence import CONFIDENCE, TRUE_CLASS, logits_of
from robustbench_coss.records.record import Record, find_records, path_of, read_record

TOLERANCE = 0.3  # points that a share may move by against 32 bit
PROBABILITIES = 0.005  # what those of single images may, on average


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return build_encoder("rf29_resnet18", size=32, width=0.125).eval().requires_grad_(False)


@pytest.mark.parametrize(("name", "bits"), [("bf16", 8), ("fp16", 11)])
def test_shorter_numbers_are_as_wrong_as_their_significand_is_short(
    encoder: Encoder, images: torch.Tensor, name: Any, bits: int
) -> None:
    with torch.inference_mode():
        exact, found = encoder(images), lowered(encoder, Arithmetic(name))(images)
    assert found.dtype == torch.float32
    error = float((found - exact).norm() / exact.norm())
    # Each of about 20 layers rounds its factors by up to 2^-bits; errors add like random ones.
    assert 2.0 ** -(bits + 2) < error < 2.0**-bits * 20


@pytest.mark.parametrize("call", ["forward", "local", "pool", "stages", "maps"])
def test_every_way_into_an_encoder_is_lowered_and_gives_32_bit(
    encoder: Encoder, images: torch.Tensor, call: str
) -> None:
    def found(network: Encoder) -> torch.Tensor:
        local = encoder.local(images)
        ways: dict[str, Any] = {
            "forward": lambda: network(images),
            "local": lambda: network.local(images),
            "pool": lambda: network.pool(local, keep=local[:, 0] > 0),
            "stages": lambda: next(iter(network.stages().values()))(images),
            "maps": lambda: list(network.maps(images).values())[-1],
        }
        with torch.inference_mode():
            return ways[call]()  # type: ignore[no-any-return]

    network = Lowered(encoder, torch.bfloat16, compiled=False)
    one, other = found(encoder), found(network)
    assert other.dtype == torch.float32
    assert float((other - one).norm() / one.norm()) < 0.1
    if call != "pool":  # an average, which is taken in 32 bit
        assert not torch.equal(one, other)


def test_plain_32_bit_is_the_encoder_itself(encoder: Encoder) -> None:
    assert lowered(encoder, Arithmetic()) is encoder


def test_tf32_is_switched_and_put_back() -> None:
    def state() -> tuple[bool, bool]:
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = state()
    for allowed in (True, False):
        with tf32(allowed):
            assert state() == (allowed, allowed)
        assert state() == before


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, bool]]:
    """Whether autocast and TF32 were on, whenever the toy's convolution ran."""
    found: list[tuple[bool, bool]] = []
    local = ToyEncoder.local

    def noted(self: ToyEncoder, x: torch.Tensor) -> torch.Tensor:
        found.append((torch.is_autocast_enabled("cpu"), torch.backends.cudnn.allow_tf32))
        return local(self, x)

    monkeypatch.setattr(ToyEncoder, "local", noted)
    return found


@pytest.mark.parametrize(
    ("asked", "stated", "state"),
    [
        ("32", ("32", False), (False, False)),
        ("tf32", ("32", True), (False, True)),
        ("bf16", ("bf16", False), (True, False)),
        ("fp16", ("fp16", False), (True, False)),
    ],
)
def test_a_record_states_the_precision_that_its_conditions_were_measured_in(
    run: Path, seen: list[Any], asked: str, stated: tuple[str, bool], state: tuple[bool, bool]
) -> None:
    record = measure(run, precision=asked)
    assert (record.precision, record.tf32, record.compiled) == (*stated, False)
    assert set(seen[-3:]) == {state}  # three conditions of one batch
    assert set(seen[:-3]) == {(False, False)}  # the probe and checks of the model
    (command,) = [line for line in commands_of([record]) if " eval " in line]
    assert ("--precision" in command) == (asked != "32")
    assert asked == "32" or f"--precision {asked}" in command


def test_each_precision_is_measured_once_and_replaces_no_other(run: Path) -> None:
    order = ("32", "32", "bf16", "bf16", "fp16", "tf32", "32")
    keys = [measure(run, precision=asked).key for asked in order]
    assert len(set(keys)) == 4
    assert len(ToySuite.log) == 3 * 4
    results = run.parent.parent / "results"
    assert len(list((results / "probes").glob("*.safetensors"))) == 1
    found = {path.relative_to(results): r.arithmetic() for path, r in find_records(results)}
    assert set(found.values()) == {"32", "bf16", "fp16", "tf32"}
    assert found.keys() == {path_of(r) for _, r in find_records(results)}


def test_an_unknown_precision_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(CossError, match="unknown precision 'half'; known: 32, tf32, bf16, fp16, a"):
        Evaluation(precision="half")


def test_a_suite_that_takes_gradients_stays_in_32_bit(
    run: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToySuite, "full_precision", True)
    record = measure(run, precision="bf16")
    assert (record.precision, set(seen)) == ("32", {(False, False)})
    assert measure(run, precision="32").key == record.key
    assert len(ToySuite.log) == 3


def test_attacks_are_made_in_32_bit_unless_they_are_asked_for_otherwise(
    run: Path, seen: list[Any]
) -> None:
    one = {"attacks": "fgsm", "eps": 2}
    asked: dict[str, Any] = {"limit": 12, "precision": "bf16"}
    for full in (True, False):
        options = {"adversarial": one | {"full_precision": full}}
        seen.clear()
        record = measure(run, ("adversarial",), options=options, **asked)
        assert record.precision == ("32" if full else "bf16")
        assert any(half for half, _ in seen) is not full
    with pytest.raises(CossError, match=r"adversarial\.full_precision must be true or false"):
        measure(run, ("adversarial",), options={"adversarial": {"full_precision": 1}}, **asked)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What a forward pass in fp16 takes of one in 32 bit, from the end."""
    shares: list[float] = []
    monkeypatch.setattr(precision, "native_fp16", lambda device: True)
    monkeypatch.setattr(precision, "half_over_32", lambda step, device: shares.pop())
    return shares


@pytest.mark.parametrize(("share", "chosen"), [(0.5, "fp16"), (0.95, "fp16"), (0.96, "32")])
def test_auto_is_the_faster_precision_and_stays_it(
    run: Path, timed: list[float], share: float, chosen: str
) -> None:
    timed.append(share)
    first = measure(run, precision="auto")
    assert first.precision == chosen
    assert measure(run, precision="auto").key == first.key  # and times nothing
    assert measure(run, precision=chosen).key == first.key
    assert (timed, len(ToySuite.log)) == ([], 3)


def test_a_cpu_times_no_more_images_than_it_takes_a_second_for(
    monkeypatch: pytest.MonkeyPatch, encoder: Encoder, images: torch.Tensor
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(precision, "native_fp16", lambda device: True)
    macs = multiply_accumulates(encoder)
    with encoder.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0]))):
        for most, timed in ((4e9, 64), (6.5 * macs, 6), (macs, 4)):
            monkeypatch.setattr("robustbench_coss.machine.precision.CPU_MACS", most)
            precision.faster(encoder, images.repeat(16, 1, 1, 1))
            assert seen[-1] == timed


def test_an_encoder_without_weights_can_be_asked_which_precision_is_faster(
    timed: list[float], images: torch.Tensor
) -> None:
    timed.append(1.0)
    assert precision.faster(load_model("control:pixels", dataset="parts").encoder, images) == "32"


def test_auto_continues_in_the_precision_that_it_began_in(
    run: Path, timed: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed.append(2.0)
    with monkeypatch.context() as patch:
        patch.setattr(ToySuite, "interrupt_at", "noise@1")
        with pytest.raises(KeyboardInterrupt):
            measure(run, precision="auto")
    timed.append(0.1)
    assert measure(run, precision="auto").precision == "32"
    assert len(ToySuite.log) == 3


def test_without_fp16_of_its_own_a_device_is_not_timed(
    encoder: Encoder, images: torch.Tensor, timed: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed.append(0.1)
    monkeypatch.setattr(precision, "native_fp16", lambda device: False)
    assert precision.faster(encoder, images) == "32"
    with pytest.warns(UserWarning, match="emulates it, which is slower; measure with --precision"):
        precision.say_emulated(Arithmetic("fp16"), torch.device("cpu"))


def test_what_does_not_compile_is_measured_as_it_is_and_said_in_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = measure(run)

    def broken(call: Any) -> Any:
        def fail(*_: object) -> None:
            raise RuntimeError("no compiler here\nand much more")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        record = measure(run, compile=True)
    said = [str(w.message) for w in caught if "compiled" in str(w.message)]
    assert said == [
        "the model cannot be compiled (no compiler here and much more); it is measured as it is"
    ]
    assert (record.compiled, record.key) == (False, plain.key)


def test_a_compiled_model_is_called_and_stated(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = measure(run), []

    def compiled(call: Any) -> Any:
        def counted(x: torch.Tensor) -> Any:
            calls.append(len(x))
            return call(x)

        return counted

    monkeypatch.setattr(torch, "compile", compiled)
    record = measure(run, compile=True)
    assert record.compiled
    assert record.key != plain.key
    assert calls == [60, 30, 60, 60, 60]  # tried on two sizes of a batch, then three conditions
    assert measure(run, compile=True).key == record.key
    assert len(calls) == 5
    for one, other in zip(plain.cells, record.cells, strict=True):
        assert np.array_equal(one.outcomes["correct"], other.outcomes["correct"])


@pytest.mark.slow
def test_the_compiler_gives_the_same_answers(run: Path) -> None:
    plain = measure(run, limit=30)
    record = measure(run, limit=30, compile=True)
    assert record.compiled
    for one, other in zip(plain.cells, record.cells, strict=True):
        np.testing.assert_allclose(one.outcomes["logit"], other.outcomes["logit"], atol=1e-4)


def test_records_from_before_say_32_bit_and_nothing_of_tf32() -> None:
    (study, *_) = sorted((ROOT / "results/fashion-mnist").glob("records/*/*/clean.json"))
    stored = json.loads(study.read_text())
    assert "tf32" not in stored
    record = read_record(study)
    assert (record.precision, record.tf32, record.compiled) == ("32", None, False)
    assert record.arithmetic() == "32"


def test_records_of_two_precisions_are_two_protocols(tmp_path: Path) -> None:
    for name, changes in (
        ("a", {}),
        ("b", {"tf32": None}),
        ("c", {"precision": "bf16"}),
        ("d", {"compiled": True}),
        ("e", {"tf32": True}),
    ):
        record = simulate.clean(0.5)
        record.model |= {"name": name, "checkpoint_sha256": name * 64}
        record.model["training"] = {"images": ord(name)}
        for key, value in changes.items():
            setattr(record, key, value)
        simulate.save(tmp_path, record)
    found: dict[str, list[str]] = {}
    for m in load_measurements(tmp_path):
        found.setdefault(m.protocol_note, []).append(m.records[0].model["name"])
    notes = {"precision=32": ["a", "b"], "precision=bf16": ["c"], "precision=tf32": ["e"]}
    assert {k: sorted(v) for k, v in found.items()} == notes | {"precision=32, compiled": ["d"]}


@pytest.fixture(scope="module")
def trained() -> Checkpoint:
    """A classifier of generated pictures after some steps of training."""
    torch.manual_seed(0)
    encoder = build_encoder("rf29_resnet18", size=32, width=0.0625)
    network = nn.Sequential(encoder, nn.Linear(encoder.dim, 10))
    data = open_dataset("parts", "train", size=32)
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    for step in range(150):
        chosen = range(48 * step, 48 * (step + 1))
        loss = F.cross_entropy(network(data.images(chosen) / 255), data.labels[list(chosen)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    meta = {"arch": "rf29_resnet18", "width": 0.0625, "size": 32, "dataset": "parts"}
    return Checkpoint(encoder, "trained", None, "a" * 64, meta, network[1], 10)


def in_precision(trained: Checkpoint, folder: Path, name: str) -> Record:
    options = {"crop": {"areas": [0.5]}}
    request = Evaluation(
        "crop", results=folder, device="cpu", precision=name, limit=4000, options=options
    )
    (record,) = evaluate_run(lambda: trained, request).values()
    return record


@pytest.fixture(scope="module")
def full(trained: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return in_precision(trained, tmp_path_factory.mktemp("full"), "32")


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["bf16", "fp16"])
def test_shares_of_a_trained_model_move_by_at_most_0_3_points(
    trained: Checkpoint, full: Record, tmp_path: Path, asked: str
) -> None:
    short = in_precision(trained, tmp_path, asked)
    assert full.cells[0].outcomes["correct"].mean() > 0.6
    for metric in full.metrics:
        moved = 100 * abs(full.per_sample(metric).mean() - short.per_sample(metric).mean())
        assert moved <= TOLERANCE, metric.name
    pairs = zip(full.cells, short.cells, strict=True)
    columns = [(a.outcomes[k], b.outcomes[k]) for a, b in pairs for k in a.outcomes]
    for one, other in zip(full.cells, short.cells, strict=True):
        for k in (CONFIDENCE, TRUE_CLASS):
            p, q = (expit(logits_of(cell.outcomes[k])) for cell in (one, other))
            assert np.abs(p - q).mean() <= PROBABILITIES, (one.condition, k)
    assert not all(np.array_equal(*pair) for pair in columns)  # it was another computation


def test_a_worker_settles_what_is_asked_for(run: Path, timed: list[float]) -> None:
    timed.append(0.5)
    asked = Evaluation("toy", results=run.parent / "r", precision="auto", device="cpu")
    found = job.settle(lambda: load_checkpoint(run), asked)
    assert (found.precision, found.compile) == ("fp16", False)


def test_an_executor_gets_the_settled_request(run: Path, timed: list[float]) -> None:
    timed.append(0.5)
    record = measure(run, precision="auto", executor=in_process)
    assert record.precision == "fp16"


def test_a_bundle_is_verified_in_the_precision_that_it_was_measured_in(
    run: Path, seen: list[Any]
) -> None:
    measure(run, precision="bf16")
    bundle, _ = submit(str(run), run.parent.parent / "results", out=run.parent / "b.zip")
    seen.clear()
    report = verify(bundle, Plan(seed=0, here=Evaluation(device="cpu")), encoder=str(run))
    assert report.reproduced
    assert (True, False) in seen
