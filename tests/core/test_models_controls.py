from __future__ import annotations

import pytest
import torch

from robustbench_coss.analysis.labels import control_name
from robustbench_coss.errors import CossError
from robustbench_coss.models.checkpoint import build_encoder
from robustbench_coss.models.load import load_model
from robustbench_coss.seeds import seed_of


def test_pixels_are_the_normalised_image_row_by_row() -> None:
    model = load_model("control:pixels", dataset="parts")
    assert (model.name, model.metadata["control"]) == ("pixels", "pixels")
    assert model.metadata["size"] == 32
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = ((x - mean[:, None, None]) / std[:, None, None]).reshape(2, -1)
    torch.testing.assert_close(model.encoder(x), expected)
    assert model.encoder.dim == 3 * 32 * 32


def test_an_untrained_control_goes_without_the_mlp_where_runs_do() -> None:
    spec = "control:untrained:rf29_resnet18:0.125"
    with_mlp, without = (load_model(spec + end, size=32) for end in ("", ":7:no-mlp"))
    body = build_encoder("rf29_resnet18", size=32, width=0.125, mlp=False).state_dict()
    assert without.encoder.state_dict().keys() == body.keys() < with_mlp.encoder.state_dict().keys()
    assert control_name(without.metadata) == f"{spec}:no-mlp"
    assert control_name(with_mlp.metadata) == spec


def test_an_untrained_control_has_the_weights_that_a_run_with_its_seed_begins_with() -> None:
    model = load_model("control:untrained:rf29_resnet18:0.125:3", size=32)
    torch.manual_seed(seed_of(3, "initialisation"))
    expected = build_encoder("rf29_resnet18", size=32, width=0.125).state_dict()
    found = model.encoder.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    means = [v for k, v in found.items() if k.endswith("running_mean")]
    assert means
    assert all(bool((v == 0).all()) for v in means)
    assert not model.encoder.training


def test_seeds_of_a_control_differ_in_weights_and_hash_and_share_a_name() -> None:
    first, again, other = (
        load_model(f"control:untrained:rf29_resnet18:0.125{seed}", size=32)
        for seed in ("", ":0", ":1")
    )
    assert first.sha256 == again.sha256 != other.sha256
    assert first.name == other.name == "untrained-rf29_resnet18-x0.125"
    assert (first.metadata["training"], other.metadata["training"]) == ({"seed": 0}, {"seed": 1})
    assert first.metadata["control"] == "untrained"


def test_loading_a_control_leaves_the_global_draws_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_model("control:untrained:rf29_resnet18:0.125", size=32)
    assert torch.equal(torch.rand(3), expected)


def test_pixels_of_another_size_are_another_model() -> None:
    hashes = {load_model("control:pixels", size=size).sha256 for size in (16, 32)}
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("control:noise", r"unknown control 'control:noise'; known: control:pixels"),
        ("control:", "unknown control"),
        ("control:pixels:3", "unknown control"),
        ("control:untrained", "names no architecture"),
        ("control:untrained:rf29_resnet18:1:0:2", "names no architecture"),
        ("control:untrained:rf29_resnet81", "rf29_resnet18"),
        ("control:untrained:rf29_resnet18:wide", "width .* 'wide'"),
        ("control:untrained:rf29_resnet18:0", "width .* '0'"),
        ("control:untrained:rf29_resnet18:nan", "width .* 'nan'"),
        ("control:untrained:rf29_resnet18:1:-1", "seed .* '-1'"),
        ("control:untrained:rf29_resnet18:1:x", "seed .* 'x'"),
    ],
)
def test_what_is_no_control_is_refused_in_one_line(spec: str, message: str) -> None:
    for dataset in ("parts", None):  # a wrong name comes before a missing data set
        with pytest.raises(CossError, match=message) as refused:
            load_model(spec, dataset=dataset)
        assert "\n" not in str(refused.value)


def test_a_control_without_a_data_set_asks_for_one() -> None:
    with pytest.raises(CossError, match="--dataset"):
        load_model("control:pixels")


def test_a_control_takes_no_arch_or_format() -> None:
    with pytest.raises(CossError, match="leave out --arch"):
        load_model("control:pixels", arch="resnet18", size=32)
