"""Models of torchvision and timm, and any module: their parts, heads and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models as tv

from robustbench_coss.encoders.base import InputSpec
from robustbench_coss.errors import CossError
from robustbench_coss.models.checkpoint import build_encoder, save_encoder
from robustbench_coss.models.identity import state_sha256
from robustbench_coss.models.load import load_model, wrap_module
from robustbench_coss.models.seams import cut

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
WITH_PARTS = [
    "resnet18",
    "densenet121",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "convnext_tiny",
    "regnet_x_400mf",
    "shufflenet_v2_x0_5",
    "mnasnet0_5",
    "swin_t",
    "vit_b_32",
]


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = {"image_size": 64} if name.startswith("vit_") else {}
    made: nn.Module = tv.get_model(name, num_classes=7, **options)
    return made.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_PARTS)
@torch.inference_mode()
def test_the_parts_of_a_torchvision_network_give_what_it_gives(name: str) -> None:
    whole = network(name)
    seen: list[Tensor] = []
    last = [m for m in whole.modules() if isinstance(m, nn.Linear)][-1]
    last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    normalised = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    logits = whole(normalised)
    features = seen[-1]  # what the network's own last layer reads
    parts = cut(whole, InputSpec(64, MEAN, STD))
    assert parts is not None
    encoder = parts.encoder
    local = encoder.local(images)
    assert local.shape[1:] == (encoder.local_dim, *local.shape[2:])
    assert local.shape[2:] == (2, 2)
    found = encoder.pool(local)
    torch.testing.assert_close(found, features, rtol=1e-5, atol=1e-5)
    assert parts.head is not None
    torch.testing.assert_close(parts.head(found), logits, rtol=1e-5, atol=1e-5)
    assert parts.classes == 7
    kept = encoder.pool(local, torch.ones(3, 2, 2, dtype=torch.bool))
    torch.testing.assert_close(kept, features, rtol=1e-4, atol=1e-4)
    maps = list(encoder.maps(images).values())
    assert torch.equal(maps[-1], local)
    assert name.startswith("vit_") or len(maps) >= 4


@pytest.mark.parametrize("name", ["vgg11", "squeezenet1_1"])
def test_a_network_whose_parts_are_not_known_is_measured_by_its_output(name: str) -> None:
    whole = network(name)
    model = wrap_module(whole, name=name, size=64, classes=7)
    images = torch.rand(2, 3, 64, 64)
    assert model.head is not None
    with torch.inference_mode():
        assert model.encoder.local(images).shape == (2, 7, 1, 1)
        torch.testing.assert_close(model.head(model.encoder(images)), whole(images))


def test_torchvisions_names_give_the_same_fresh_network_every_time() -> None:
    torch.manual_seed(1)
    first = load_model("torchvision:resnet18", size=64)
    torch.manual_seed(2)
    drawn = torch.rand(1)
    torch.manual_seed(2)
    second = load_model("torchvision:resnet18", size=64)
    assert torch.equal(torch.rand(1), drawn)  # nobody else's draws are disturbed
    assert first.sha256 == second.sha256
    assert first.name == "torchvision-resnet18-untrained"
    assert first.head is None  # untrained, its answers mean nothing
    assert first.metadata["dataset"] is None
    assert "seed 0" in first.metadata["source"]
    assert first.preprocessing.startswith("images of 64 px, pixels in [0, 1], mean (0.485")


def weights_in_the_cache(name: str, entry: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a download would leave: random weights of the right names and shapes."""
    torch.manual_seed(3)
    state = tv.get_model(name).state_dict()
    monkeypatch.setattr(type(entry), "get_state_dict", lambda self, *a, **k: state)


def test_weights_of_torchvision_bring_head_data_set_and_preprocessing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights_in_the_cache("resnet18", tv.ResNet18_Weights.IMAGENET1K_V1, monkeypatch)
    model = load_model("torchvision:resnet18:IMAGENET1K_V1")
    assert (model.name, model.classes) == ("torchvision-resnet18-IMAGENET1K_V1", 1000)
    assert model.metadata["dataset"] == "imagenet"
    assert model.metadata["size"] == model.encoder.input.size == 224
    assert model.preprocessing == (
        "images of 224 px, pixels in [0, 1], mean (0.485, 0.456, 0.406), "
        "std (0.229, 0.224, 0.225), from torchvision's resnet18 IMAGENET1K_V1"
    )
    torch.manual_seed(3)
    original = tv.resnet18().eval()
    images = torch.rand(2, 3, 224, 224)
    normalise = tv.ResNet18_Weights.IMAGENET1K_V1.transforms()
    mean = torch.tensor(normalise.mean).view(3, 1, 1)
    std = torch.tensor(normalise.std).view(3, 1, 1)
    assert model.head is not None
    with torch.inference_mode():
        expected = original((images - mean) / std)
        torch.testing.assert_close(
            model.head(model.encoder(images)), expected, rtol=1e-4, atol=1e-4
        )


def test_weights_of_timm_bring_head_and_preprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    create = timm.create_model

    def without_download(name: str, pretrained: bool = False, **options: object) -> nn.Module:
        assert pretrained
        torch.manual_seed(4)
        made: nn.Module = create(name, pretrained=False, **options)
        return made

    monkeypatch.setattr(timm, "create_model", without_download)
    model = load_model("timm:test_resnet:r160_in1k")
    assert model.name == "timm-test_resnet-r160_in1k"
    assert (model.classes, model.metadata["dataset"]) == (1000, "imagenet")
    size = timm.get_pretrained_cfg("test_resnet.r160_in1k").input_size[-1]
    assert model.metadata["size"] == size
    torch.manual_seed(4)
    original = create("test_resnet").eval()
    images = torch.rand(2, 3, size, size)
    assert model.head is not None
    with torch.inference_mode():
        expected = original(model.encoder.normalise(images))
        torch.testing.assert_close(model.head(model.encoder(images)), expected)


@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_atto", "regnety_002", "efficientnet_lite0", "resnetv2_50"]
)
def test_networks_of_timm_show_the_stages_that_make_their_map(name: str) -> None:
    pytest.importorskip("timm")
    encoder = build_encoder(f"timm:{name}", size=64).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        maps = encoder.maps(images)
        assert list(maps)[:4] == ["stage1", "stage2", "stage3", "stage4"]
        expected = encoder.model.forward_features(encoder.normalise(images))  # type: ignore[operator,union-attr]
        torch.testing.assert_close(list(maps.values())[-1], expected)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision:resnet19", r"unknown torchvision model 'resnet19'; did you mean .*resnet1"),
        ("torchvision:resnet18:V9", r"no weights 'V9' for resnet18; it has: IMAGENET1K_V1"),
        ("timm:resnet19", r"unknown timm model 'resnet19'; did you mean"),
        ("timm:swin_tiny_patch4_window7_224", None),
    ],
)
def test_names_that_libraries_do_not_know_are_refused(spec: str, message: str | None) -> None:
    if message is None:  # a size that the model does not take
        with pytest.raises(CossError, match="does not work at 3 px"):
            load_model(spec, size=3)
        return
    with pytest.raises(CossError, match=message):
        load_model(spec)


def test_weights_that_cannot_be_fetched_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*a: object, **k: object) -> None:
        raise OSError("connection\nrefused")

    monkeypatch.setattr(tv.ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(CossError, match=r"could not be had \(OSError: connection refused\)") as e:
        load_model("torchvision:resnet18:DEFAULT")
    assert "\n" not in str(e.value)


class Strange(nn.Module):
    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> object:
        return self.answer(x) if callable(self.answer) else self.answer


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ({"features": 1}, "a dict"),
        (lambda x: (x, x), "a tuple"),
        (lambda x: x, r"a tensor \[2, 3, 8, 8\] for 2 images"),
        (lambda x: x.flatten(1).long(), r"a tensor of torch.int64"),
        (lambda x: x.mean(), r"a tensor \[\] for 2 images"),
    ],
)
def test_an_output_that_is_neither_features_nor_logits_is_described(
    answer: object, what: str
) -> None:
    with pytest.raises(CossError, match=f"neither features .* nor logits .* but {what}"):
        wrap_module(Strange(answer), name="odd", size=8)


def test_a_module_that_fails_on_the_image_size_is_told_in_one_line() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    with pytest.raises(CossError, match=r"does not take images \[B, 3, 8, 8\] \(RuntimeError"):
        wrap_module(net, name="net", size=8)


def test_a_module_that_ends_the_process_is_told_in_one_line() -> None:
    class Exits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise SystemExit(3)

    with pytest.raises(CossError, match=r"net does not take images .* \(SystemExit: 3\)"):
        wrap_module(Exits(), name="net", size=8)


def test_an_encoder_keeps_its_seam_and_the_users_module_stays_as_it_is() -> None:
    encoder = build_encoder("rf29_resnet18", size=32, width=0.125).train()
    model = wrap_module(encoder, name="mine", size=32)
    assert model.encoder is not encoder
    assert list(model.encoder.stages()) == ["stage1", "stage2", "stage3", "stage4"]
    assert encoder.training
    assert not model.encoder.training
    with pytest.raises(CossError, match="takes images of 32 px, not 64"):
        wrap_module(encoder, name="mine", size=64)


def test_a_classifier_asked_for_features_gives_what_its_last_layer_reads() -> None:
    whole = network("resnet18")
    images = torch.rand(2, 3, 64, 64)
    model = wrap_module(whole, name="r", size=64, output="features")
    assert model.head is None
    with torch.inference_mode():
        expected = whole.avgpool(  # type: ignore[operator]
            whole.layer4(  # type: ignore[operator]
                whole.layer3(
                    whole.layer2(
                        whole.layer1(whole.maxpool(whole.relu(whole.bn1(whole.conv1(images)))))
                    )
                )  # type: ignore[operator]
            )
        )
        torch.testing.assert_close(model.encoder(images), expected.flatten(1))
    # Ten classes are not seven logits: what else could they be but features?
    assert wrap_module(whole, name="r", size=64, classes=10).head is None
    assert wrap_module(whole, name="r", size=64, classes=7).classes == 7


def test_the_digest_of_a_module_follows_class_names_types_and_values() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    assert state_sha256(first) != state_sha256(second)
    second.load_state_dict(first.state_dict())
    assert state_sha256(first) == state_sha256(second)
    assert state_sha256(first.double()) != state_sha256(second)
    assert state_sha256(nn.Sequential(second)) != state_sha256(second)


def test_a_run_of_this_tool_is_loaded_as_before_and_only_at_its_own_size(tmp_path: Path) -> None:
    encoder = build_encoder("rf29_resnet18", size=32, width=0.125)
    metadata = {"arch": "rf29_resnet18", "width": 0.125, "size": 32, "dataset": "parts"}
    save_encoder(tmp_path / "run" / "encoder.safetensors", encoder, metadata)
    for where in (tmp_path / "run", str(tmp_path / "run" / "encoder.safetensors")):
        model = load_model(where)
        assert (model.name, model.head, model.preprocessing) == ("run", None, "")
    with pytest.raises(CossError, match="pretrained at 32 px, not 64"):
        load_model(tmp_path / "run", size=64)


def test_an_unknown_format_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(CossError, match="unknown format 'lihgtly'; did you mean lightly"):
        load_model(tmp_path, format="lihgtly")
