"""Modules of every make are measured as they are, and are left as they were."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import robustbench_coss
from robustbench_coss.datasets import parts
from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.errors import CossError
from robustbench_coss.models.load import wrap_module

SUITES = {
    "clean": {},
    "adversarial": {"attacks": ["fgsm", "apgd-ce", "square"], "eps": [1.0], "steps": 1},
}


@pytest.fixture(autouse=True)
def few_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for role, count in {"train": 40, "validation": 20, "test": 9}.items():
        monkeypatch.setitem(parts.COUNTS, role, count)
    monkeypatch.setattr("robustbench_coss.evaluations.attacks.run.QUERIES", 2)


class Net(nn.Module):
    """A small classifier in training mode, one part frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.BatchNorm2d(6), nn.ReLU())
        self.grid, self.drop, self.fc = nn.AdaptiveAvgPool2d(2), nn.Dropout(0.5), nn.Linear(24, 10)
        self.body[0].weight.requires_grad_(False)
        self.body[1].eval()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.drop(self.grid(self.body(x)).flatten(1)))
        return out


class Locked(Net):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return super().forward(x)


class Remembering(Net):
    """Keeps what its first call made, for every size of batch; and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.ones: dict[int, Tensor] = {}
        self.first: Tensor | None = None
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.first is None:
            self.first = torch.ones(1, 1, 1, 1) + 0 * x[:1, :1, :1, :1].detach()
        if len(x) not in self.ones:
            self.ones[len(x)] = torch.full_like(x, 0.5)
        return super().forward(x * self.ones[len(x)] * self.first)


class WithExtraState(Net):
    def get_extra_state(self) -> Any:
        return {"scale": 0.5, "held": threading.Lock}

    def set_extra_state(self, state: Any) -> None:
        pass


class Squeezing(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :, None].squeeze()


class OwnEncoder(Encoder):
    """A weight-normed encoder of a user's, whose global representation squeezes."""

    def __init__(self) -> None:
        super().__init__(InputSpec(32), 6, 6)
        torch.manual_seed(6)
        self.body = weight_norm(nn.Conv2d(3, 6, 8, 8))

    def local(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(self.normalise(x))
        return out

    def pool(self, local: Tensor, keep: Tensor | None = None) -> Tensor:
        return super().pool(local, keep)[:, :, None].squeeze()


def weight_normed() -> nn.Module:
    net = Net()
    weight_norm(net.fc)
    return net


def parametrised() -> nn.Module:
    net = Net()
    parametrizations.weight_norm(net.fc)
    parametrizations.spectral_norm(net.body[0])
    return net


def spectral() -> nn.Module:
    net = Net()
    spectral_norm(net.fc)
    return net


def pruned() -> nn.Module:
    net = Net()
    prune.l1_unstructured(net.fc, "weight", 0.5)  # type: ignore[no-untyped-call]
    return net


def called_lazy() -> nn.Module:
    net = Net()
    net.fc = nn.LazyLinear(10)
    with torch.no_grad():
        net(torch.zeros(2, 3, 32, 32))
    return net


def remembering_inference() -> nn.Module:
    net = Remembering()
    with torch.inference_mode():
        net(torch.zeros(2, 3, 32, 32))
        net(torch.zeros(9, 3, 32, 32))
    return net


def made_under_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return Net()


def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(Net().eval(), {nn.Linear})


def scripted() -> nn.Module:
    made: nn.Module = torch.jit.script(Net())
    return made


def traced() -> nn.Module:
    made: nn.Module = torch.jit.trace(Net().eval(), torch.zeros(2, 3, 32, 32))
    return made


def frozen() -> nn.Module:
    made: nn.Module = torch.jit.freeze(torch.jit.script(Net().eval()))
    return made


def hooked() -> nn.Module:
    net = Net()
    net.fc.register_forward_hook(lambda module, inputs, out: 2 * out)
    net.register_full_backward_hook(lambda module, gradients, others: None)
    return net


def shared() -> nn.Module:
    net = Net()
    net.again = net.fc
    return net


def parallel() -> nn.Module:
    return nn.DataParallel(Net())


def patched() -> nn.Module:
    net = Net()
    whole = net.forward
    net.forward = lambda x: whole(x) + 1  # type: ignore[method-assign]
    return net


MAKES: list[Callable[[], nn.Module]] = [
    *(Net, Locked, Remembering, WithExtraState, Squeezing, OwnEncoder),
    *(weight_normed, parametrised, spectral, pruned, called_lazy, remembering_inference),
    *(made_under_inference_mode, quantised, scripted, traced, frozen, hooked, shared, parallel),
    patched,
]


def made(make: Callable[[], nn.Module]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def look(net: nn.Module) -> list[Any]:
    """All of a module that measuring could leave changed."""
    return [
        [(name, getattr(part, "training", None)) for name, part in net.named_modules()],
        [(name, p.requires_grad, p.device, p.stride()) for name, p in net.named_parameters()],
        [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in net.modules()],
        {
            key: value.clone() if isinstance(value, Tensor) else str(type(value))
            for key, value in net.state_dict().items()
        },
        getattr(net, "calls", None),
    ]


def same(one: list[Any], other: list[Any]) -> bool:
    tensors, others = one[3], other[3]
    return (
        [*one[:3], one[4]] == [*other[:3], other[4]]
        and tensors.keys() == others.keys()
        and all(torch.equal(v, others[k]) for k, v in tensors.items() if isinstance(v, Tensor))
    )


def evaluate(net: Any, folder: Path, suites: Any = tuple(SUITES)) -> list[Any]:
    request = robustbench_coss.Evaluation(
        suites, dataset="parts", results=folder, device="cpu", batch_size=8, options=SUITES
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(robustbench_coss.evaluate(net, request))


@pytest.mark.parametrize("make", MAKES)
def test_a_module_is_measured_right_and_left_as_it_was(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    net = made(make)
    before = look(net)
    found = evaluate(net, tmp_path)
    assert same(look(net), before)
    conditions = {(done.suite, done.cell.condition) for done in found}
    assert {("clean", "clean"), ("adversarial", "fgsm@1/255")} <= conditions
    if isinstance(net, Encoder):
        return
    record = found[0].so_far
    test = open_dataset("parts", "test")
    with torch.no_grad():  # on modules of their own, with nothing of this tool between
        logits = made(make).eval()(test.images(record.index.tolist()).float() / 255)
    expected = (logits.argmax(dim=1) == test.labels[record.index.tolist()]).numpy()
    assert np.array_equal(found[0].cell.outcomes["correct"], expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("make", [Net, Remembering])
def test_the_mode_of_the_caller_changes_nothing_and_stays(
    make: Any, mode: Callable[[], AbstractContextManager[Any]], tmp_path: Path
) -> None:
    def outcomes(folder: str, within: AbstractContextManager[Any]) -> list[Any]:
        net = make()
        with within:
            modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
            found = evaluate(net, tmp_path / folder)
            assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == modes
        return [done.cell.outcomes["correct"].tolist() for done in found]

    assert outcomes("within", mode()) == outcomes("without", nullcontext())


def test_between_two_conditions_the_module_and_the_mode_are_the_callers(tmp_path: Path) -> None:
    net = Net()
    before = look(net)
    request = robustbench_coss.Evaluation(
        "crop", dataset="parts", results=tmp_path, device="cpu", limit=8
    )
    with torch.no_grad():
        for done in robustbench_coss.evaluate(net, request):
            assert same(look(net), before)
            assert not torch.is_grad_enabled()
            assert not net.fc._forward_hooks or done.cell.condition != "full"
            if done.cell.condition != "full":
                break
    assert same(look(net), before)
    assert not net.fc._forward_hooks


class Failing(Net):
    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 2:
            raise ArithmeticError("on purpose")
        return super().forward(x)


def test_a_module_that_fails_while_it_is_measured_is_left_as_it_was(tmp_path: Path) -> None:
    net = Failing()
    before = look(net)
    with pytest.raises(ArithmeticError, match="on purpose"):
        evaluate(net, tmp_path)
    assert same(look(net), before)


def test_nothing_of_a_module_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("test_resnet", num_classes=10)
    monkeypatch.setattr(copy, "deepcopy", lambda *_: pytest.fail("copied"))
    evaluate(Net(), tmp_path)
    weight = network.get_classifier().weight
    model = wrap_module(network, name="timm's", size=32, classes=10)
    assert list(model.encoder.stages()) == ["stage1", "stage2", "stage3", "stage4"]
    assert network.get_classifier().weight is weight
    assert model.head is not None
    assert model.head.weight is weight


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), "call it once on a batch"),
        (lambda: Net().to("meta"), "the device 'meta'.*load its weights"),
        (lambda: nn.Sequential(Net(), nn.BatchNorm1d(10, device="meta")), "the device 'meta'"),
        (lambda: Net().half(), r"weights are float16.*pass module.float\(\)"),
        (lambda: Net().double(), r"weights are float64.*pass module.float\(\)"),
        (lambda: Net().bfloat16(), r"weights are bfloat16.*pass module.float\(\)"),
        (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()), "takes 1 channels"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 10)), "the size it was made for"),
    ],
)
def test_a_module_that_cannot_be_measured_is_refused_with_what_helps(
    make: Callable[[], nn.Module], said: str, tmp_path: Path
) -> None:
    net = make()
    flags = [part.training for part in net.modules()]
    with pytest.raises(CossError, match=said) as error:
        evaluate(net, tmp_path)
    assert "\n" not in str(error.value)
    assert [part.training for part in net.modules()] == flags
