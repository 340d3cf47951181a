"""Which precision a run takes: the faster one that the device has, measured once and kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.bench import Bench

from robustbench_coss import registry
from robustbench_coss.errors import CossError
from robustbench_coss.machine.precision import half_over_32, native_bf16, native_fp16
from robustbench_coss.models.checkpoint import build_encoder, load_checkpoint
from robustbench_coss.pretrain import precision, train
from robustbench_coss.pretrain.methods.base import Method
from robustbench_coss.pretrain.precision import (
    bf16_over_32,
    choose,
    settle,
    settle_for_plan,
)
from robustbench_coss.pretrain.recipe import Recipe, build_recipe
from robustbench_coss.pretrain.sweep import Run, state

pytestmark = pytest.mark.usefixtures("small_bank")
CPU = torch.device("cpu")


def tiny(**changes: Any) -> Recipe:
    values = {
        "method": "byol",
        "dataset": "parts",
        "width": 1 / 16,
        "size": 16,
        "limit": 64,
        "batch_size": 32,
        "epochs": 1,
        "options": {"hidden": 32, "dim": 16},
    }
    return build_recipe(values | changes, "test")


def build(recipe: Recipe) -> Method:
    torch.manual_seed(0)
    encoder = build_encoder(recipe.arch, size=16, width=recipe.width)
    method: Method = registry.load("method", recipe.method)(encoder, recipe, 10)
    return method


@pytest.mark.parametrize(
    ("line", "native"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 avx512bw", True),
        ("flags\t\t: fpu avx512f amx_bf16 amx_tile", True),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("flags\t\t: fpu avx2 avx512f avx512bw", False),
        ("bugs\t\t: avx512_bf16", False),
    ],
)
def test_a_cpu_has_bf16_if_the_system_lists_it(tmp_path: Path, line: str, native: bool) -> None:
    assert not native_bf16(CPU, tmp_path)  # the system does not say
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: X\n{line}\n\n")
    assert native_bf16(CPU, tmp_path) is native


@pytest.mark.parametrize(
    ("flags", "native"),
    [("fpu avx512_fp16", True), ("amx_fp16 amx_bf16", True), ("avx512_bf16 f16c", False)],
)
def test_a_cpu_has_fp16_if_the_system_lists_it(tmp_path: Path, flags: str, native: bool) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"flags\t\t: {flags}\n")
    assert native_fp16(CPU, tmp_path) is native


@pytest.mark.parametrize(
    ("capability", "native"), [((7, 5), False), ((8, 0), True), ((9, 0), True), ((10, 0), True)]
)
def test_a_gpu_has_bf16_from_capability_8(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], native: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert native_bf16(torch.device("cuda")) is native


@pytest.mark.parametrize(
    ("native", "ratio", "chosen"),
    [(False, 0.1, "32"), (True, 0.61, "bf16"), (True, 0.95, "bf16"), (True, 0.96, "32")],
)
def test_bf16_is_chosen_where_it_is_native_and_faster(
    monkeypatch: pytest.MonkeyPatch, native: bool, ratio: float, chosen: str
) -> None:
    monkeypatch.setattr(precision, "native_bf16", lambda device: native)
    monkeypatch.setattr(precision, "bf16_over_32", lambda *_: ratio)
    found = choose(build(tiny()), 16, CPU)
    assert (found["precision"], found["native"]) == (chosen, native)
    assert found["bf16_over_32"] == (ratio if native else None)


def test_the_ratio_is_that_of_the_fastest_steps_after_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Each pass reads the clock twice: one to warm up in each precision, then three in turn.
    durations = [90.0, 1.0, 4.0, 3.0, 5.0, 1.0, 8.0, 2.0]
    clock = iter([moment for duration in durations for moment in (0.0, duration)])
    halves: list[bool] = []

    def now(device: torch.device) -> float:
        return next(clock)

    method = build(tiny())
    encode = type(method).encode

    def noted(self: Method, views: list[torch.Tensor]) -> Any:
        halves.append(torch.is_autocast_enabled("cpu"))
        return encode(self, views)

    monkeypatch.setattr("robustbench_coss.machine.precision.now", now)
    monkeypatch.setattr(type(method), "encode", noted)
    assert bf16_over_32(method, 16, CPU) == pytest.approx(1.0 / 4.0)
    assert halves == [False, True] * 4


def test_one_thread_is_timed_and_the_number_of_threads_is_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []

    def step(half: bool) -> None:
        seen.append(torch.get_num_threads())

    def fails(half: bool) -> None:
        raise torch.OutOfMemoryError

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        half_over_32(step, CPU)
        assert torch.get_num_threads() == 2
        with pytest.raises(torch.OutOfMemoryError):
            half_over_32(fails, CPU)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1] * 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["co-dino", "dino-mc", "simclr", "supervised"])
def test_measuring_changes_neither_the_method_nor_later_draws(name: str) -> None:
    options = {"co-dino": {"prototypes": 32}, "dino-mc": {"prototypes": 32}}.get(name, {})
    method = build(tiny(method=name, options=options))
    before = {key: value.clone() for key, value in method.state_dict().items()}
    draws = torch.get_rng_state()
    assert bf16_over_32(method, 16, CPU) > 0
    assert torch.equal(torch.get_rng_state(), draws)
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert all(p.grad is None for p in method.parameters())


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Have `choose` find a precision, and note that it was asked."""

    def choosing(what: str) -> list[str]:
        asked: list[str] = []

        def found(*_: object) -> dict[str, Any]:
            asked.append(what)
            return {"precision": what, "native": True, "bf16_over_32": 0.5, "device": "d"}

        monkeypatch.setattr(precision, "choose", found)
        return asked

    return choosing


def test_a_run_is_that_of_the_precision_that_it_chose(
    tmp_path: Path, chosen: Callable[[str], list[str]]
) -> None:
    asked = chosen("bf16")
    auto = train.pretrain(tiny(precision="auto"), tmp_path / "auto", device="cpu")
    assert asked == ["bf16"]
    assert json.loads((tmp_path / "auto/precision.json").read_text())["bf16_over_32"] == 0.5
    assert yaml.safe_load((tmp_path / "auto/recipe.yaml").read_text())["precision"] == "auto"
    half = train.pretrain(tiny(precision="bf16"), tmp_path / "half", device="cpu")
    assert auto.read_bytes() == half.read_bytes()
    assert load_checkpoint(auto).metadata["training"]["recipe"]["precision"] == "bf16"
    assert not (tmp_path / "half/precision.json").exists()
    # The same recipe, and finished: a sweep skips it.
    assert state(Run(tiny(precision="auto"), tmp_path / "auto")) == "finished"


def test_a_resumed_run_does_not_choose_anew(
    tmp_path: Path, chosen: Callable[[str], list[str]]
) -> None:
    recipe = tiny(precision="auto")
    chosen("bf16")
    exported = train.pretrain(recipe, tmp_path / "run", device="cpu")
    weights = exported.read_bytes()
    exported.unlink()  # as if it had been stopped before the export
    asked = chosen("32")
    train.pretrain(recipe, tmp_path / "run", device="cpu", resume=True)
    assert asked == []
    assert exported.read_bytes() == weights


def test_a_damaged_choice_is_one_line(tmp_path: Path, chosen: Callable[[str], list[str]]) -> None:
    chosen("32")
    method = build(tiny(precision="auto"))
    assert settle(method, tmp_path, 16, CPU).precision == "32"
    for content in ("{", "[]", '{"precision": "16"}', "null"):
        (tmp_path / "precision.json").write_text(content)
        with pytest.raises(CossError, match=r"precision\.json is missing or damaged"):
            settle(method, tmp_path, 16, CPU)


@pytest.mark.parametrize(("asked", "native"), [("bf16", False), ("bf16", True), ("32", False)])
def test_emulated_bf16_is_called_slower(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
    asked: str,
    native: bool,
) -> None:
    monkeypatch.setattr(train, "native_bf16", lambda device: native)
    train.pretrain(tiny(precision=asked), tmp_path / "run", device="cpu")
    said = [str(w.message) for w in recwarn if "emulates it, which is slower" in str(w.message)]
    assert len(said) == (asked == "bf16" and not native)
    assert not any("\n" in line for line in said)


def test_a_dry_run_says_what_auto_would_take(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "native_bf16", lambda device: False)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump(tiny(precision="auto").model_dump(mode="json")))
    outcome = bench("pretrain", "--recipe", recipe, "--dry-run", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert "# precision: auto, here 32: this device has no bf16 of its own" in outcome.out
    assert yaml.safe_load(outcome.out)["precision"] == "auto"


def test_a_run_that_has_begun_does_not_choose_again_for_want_of_the_file(
    tmp_path: Path, chosen: Callable[[str], list[str]]
) -> None:
    asked = chosen("32")
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(CossError, match=r"precision\.json is missing"):
        settle(build(tiny(precision="auto")), tmp_path, 16, CPU)
    assert asked == []


@pytest.mark.parametrize(("native", "measured"), [(True, "bf16"), (False, "32")])
def test_a_plan_never_measures_emulated_bf16(
    monkeypatch: pytest.MonkeyPatch, native: bool, measured: str
) -> None:
    monkeypatch.setattr(precision, "native_bf16", lambda device: native)
    method = build(tiny(precision="bf16"))
    said = settle_for_plan(method, 16, CPU)
    assert method.recipe.precision == measured
    assert ("emulates" in said) == (not native)
