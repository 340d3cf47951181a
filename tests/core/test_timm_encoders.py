"""Encoders made of timm's models: the same features, and a seam that can be masked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

timm = pytest.importorskip("timm", reason="needs the extra `models`")

from robustbench_coss.encoders.base import Encoder, multiply_accumulates  # noqa: E402
from robustbench_coss.encoders.resnet import Strided1x1  # noqa: E402
from robustbench_coss.errors import CossError  # noqa: E402
from robustbench_coss.evaluations.suites.similarity import cosine_within, effective_rank  # noqa: E402
from robustbench_coss.models.checkpoint import build_encoder, load_checkpoint, save_encoder  # noqa: E402
from robustbench_coss.pretrain.methods.local_global import take_grid  # noqa: E402

CNNS = ["resnet10t", "mobilenetv3_small_050", "convnext_atto", "test_mambaout", "test_nfnet"]
MEAN_VITS = ["test_vit2", "test_vit4"]
TOKEN_VITS = ["test_vit", "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"]
ALL = [*CNNS, *MEAN_VITS, *TOKEN_VITS]


def images(count: int, size: int = 64, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def encoder_of(name: str, size: int = 64) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(f"timm:{name}", size=size).eval()


def own_features(name: str, encoder: Encoder, x: Tensor, size: int = 64) -> Tensor:
    """What timm's own model of that name gives with the encoder's weights."""
    options = {"img_size": size} if "vit" in name or "deit" in name else {}
    model = timm.create_model(name, num_classes=0, **options).eval()
    state = encoder.state_dict()
    model.load_state_dict({key.removeprefix("model."): value for key, value in state.items()})
    config = model.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    features: Tensor = model((x - mean) / std)
    return features


@pytest.mark.parametrize("name", ALL)
def test_features_are_those_of_timm(name: str) -> None:
    encoder, x = encoder_of(name), images(2)
    with torch.inference_mode():
        expected = own_features(name, encoder, x)
        assert expected.shape == (2, encoder.dim)
        largest = expected.abs().max().item()
        assert largest > 1e-3
        torch.testing.assert_close(encoder(x), expected, rtol=0, atol=1e-5 * max(1, largest))


@pytest.mark.parametrize("name", ALL)
def test_every_timm_encoder_keeps_the_contract(name: str) -> None:
    encoder, x = encoder_of(name), images(3)
    with torch.inference_mode():
        local = encoder.local(x)
        assert local.shape[:2] == (3, encoder.local_dim)
        assert encoder.pool(local).shape == (3, encoder.dim)
        everything = torch.ones(3, *local.shape[2:], dtype=torch.bool)
        torch.testing.assert_close(encoder.pool(local, everything), encoder.pool(local))
        nothing = encoder.pool(local, ~everything)
        assert nothing.shape == (3, encoder.dim)
        assert nothing.isfinite().all()
        torch.testing.assert_close(encoder.local(x[1:2]), local[1:2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*CNNS[:3], *MEAN_VITS])
def test_dropping_positions_is_the_models_head_on_the_mean_of_the_rest(name: str) -> None:
    encoder = encoder_of(name)
    with torch.inference_mode():
        local = encoder.local(images(2))
        keep = torch.zeros(2, *local.shape[2:], dtype=torch.bool)
        keep[0, 0, 1] = keep[1, 0, 0] = keep[1, 1, 1] = True
        mean = torch.stack([local[0, :, 0, 1], (local[1, :, 0, 0] + local[1, :, 1, 1]) / 2])
        # A map that is the mean everywhere has that mean whatever its size.
        constant = mean[:, :, None, None].expand_as(local)
        torch.testing.assert_close(encoder.pool(local, keep), encoder.pool(constant))


@pytest.mark.parametrize("name", TOKEN_VITS)
def test_dropping_positions_takes_their_tokens_out_of_the_last_block(name: str) -> None:
    # Reference: timm's own blocks on the tokens of one image at a time, without those dropped.
    encoder, x = encoder_of(name), images(3)
    model = encoder.model
    keep = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1)) > 0.5
    keep[1] = False
    with torch.inference_mode():
        tokens = model._pos_embed(model.patch_embed(encoder.normalise(x)))  # type: ignore[union-attr, operator]
        for block in model.blocks[:-1]:  # type: ignore[union-attr, index]
            tokens = block(tokens)
        prefixes = model.num_prefix_tokens  # type: ignore[union-attr]
        expected = []
        for row, kept in zip(tokens, keep.flatten(1), strict=True):
            chosen = torch.cat([row[:prefixes], row[prefixes:][kept]])[None]
            last = model.norm(model.blocks[-1](chosen))  # type: ignore[union-attr, index, operator]
            expected.append(model.forward_head(last))  # type: ignore[union-attr, operator]
        pooled = encoder.pool(encoder.local(x), keep)
        torch.testing.assert_close(pooled, torch.cat(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TOKEN_VITS)
def test_positions_set_to_zero_take_no_class_token_away(name: str) -> None:
    encoder = encoder_of(name)
    with torch.inference_mode():
        local = encoder.local(images(2))
        hidden = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
        hidden[:, :, 1:] = True
        patches_only = local.clone()
        patches_only[:, : encoder.dim].masked_fill_(hidden, 0)
        pooled = encoder.pool(local.masked_fill(hidden, 0))
        torch.testing.assert_close(pooled, encoder.pool(patches_only), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(pooled, encoder.pool(local), atol=1e-4)
        assert encoder.pool(torch.zeros_like(local)).isfinite().all()


def test_the_class_token_in_the_map_leaves_lengths_cosines_and_ranks_alone() -> None:
    encoder = encoder_of("vit_tiny_patch16_224")
    with torch.inference_mode():
        local = encoder.local(images(4))
    patches = local[:, : encoder.dim]
    torch.testing.assert_close(local.norm(dim=1), patches.norm(dim=1))
    torch.testing.assert_close(cosine_within(local), cosine_within(patches), rtol=0, atol=1e-6)
    torch.testing.assert_close(effective_rank(local), effective_rank(patches), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["resnet10t", "test_vit2", "test_vit"])
def test_images_of_other_sizes_give_maps_of_other_sizes(name: str) -> None:
    encoder = encoder_of(name)
    with torch.inference_mode():
        whole, part = encoder.local(images(1, 64)), encoder.local(images(1, 32))
        wide = encoder.local(torch.rand(1, 3, 64, 96))
        assert [2 * s for s in part.shape[2:]] == list(whole.shape[2:])
        assert 2 * wide.shape[3] == 3 * wide.shape[2]
        assert encoder(images(1, 32)).shape == (1, encoder.dim)


def test_patch_tokens_lie_in_the_map_where_their_patches_lie_in_the_image() -> None:
    encoder = encoder_of("test_vit2")
    convolution = encoder.model.patch_embed.proj  # type: ignore[union-attr]
    x = torch.rand(1, 3, 64, 96)
    tokens = torch.randn(1, 1 + 24, 64)
    with torch.inference_mode():
        tokens[:, 1:] = convolution(encoder.normalise(x)).flatten(2).transpose(1, 2)  # type: ignore[operator]
        encoder.model.forward_features = lambda _: tokens  # type: ignore[union-attr, assignment]
        torch.testing.assert_close(encoder.local(x), convolution(encoder.normalise(x)))  # type: ignore[operator]


def test_normalisation_is_that_of_the_model() -> None:
    encoder = encoder_of("vit_tiny_patch16_224", 32)  # ImageNet-21k weights of Google: half, half
    assert encoder.input.mean == encoder.input.std == (0.5, 0.5, 0.5)
    assert encoder_of("resnet10t").input.mean == (0.485, 0.456, 0.406)


def test_local_representations_of_averaging_models_fit_co_methods() -> None:
    for name in ("resnet10t", "convnext_atto", "test_vit2"):
        encoder = encoder_of(name)
        assert encoder.local_dim == encoder.dim
        assert take_grid(encoder.local(images(1)), None).shape[2] == encoder.dim


def test_gradients_reach_every_parameter_in_channels_last() -> None:
    for name in ("resnet10t", "test_vit"):
        encoder = encoder_of(name).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = images(4).contiguous(memory_format=torch.channels_last)
        encoder(x).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_strided_1x1_convolutions_subsample_first_and_keep_their_weights() -> None:
    encoder = encoder_of("resnet26")
    strided = [
        m
        for m in encoder.modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.stride != (1, 1)
    ]
    assert len(strided) == 3  # the shortcuts into stages 2 to 4
    assert {type(m) for m in strided} == {Strided1x1}
    x = images(1)
    with torch.inference_mode():
        expected = own_features("resnet26", encoder, x)
        atol = 1e-5 * expected.abs().max().item()
        torch.testing.assert_close(encoder(x), expected, rtol=0, atol=atol)


def test_the_same_seed_gives_the_same_weights() -> None:
    one, two = (encoder_of("test_vit").state_dict() for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_attention_counts_among_the_multiply_accumulates() -> None:
    # Vaswani et al. 2017 per block of N tokens of width D: 3·N·D² + 2·N²·D + N·D² + 8·N·D².
    tokens, width, patches = 1 + 2 * 2, 192, 2 * 2
    block = 12 * tokens * width**2 + 2 * tokens**2 * width
    expected = 12 * block + patches * (16 * 16 * 3) * width
    assert multiply_accumulates(encoder_of("vit_tiny_patch16_224", 32)) == expected


@pytest.mark.parametrize("name", ["resnet10t", "test_vit"])
def test_checkpoints_of_timm_encoders_load_back(tmp_path: Path, name: str) -> None:
    encoder = encoder_of(name)
    metadata = {"arch": f"timm:{name}", "size": 64, "width": 1.0}
    save_encoder(tmp_path / "encoder.safetensors", encoder, metadata)
    loaded = load_checkpoint(tmp_path).encoder
    x = images(2)
    with torch.inference_mode():
        assert torch.equal(loaded(x), encoder(x))


# ---- what is refused ----


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("resnet26z", {}, "unknown timm model 'resnet26z'; did you mean resnet26"),
        ("", {}, "unknown timm model ''; `timm.list_models()` gives all names"),
        ("resnet10t", {"width": 0.5}, "timm models have a fixed width; drop the width 0.5"),
        ("resnet10t", {"mlp": True}, "timm:resnet10t has no MLP after pooling to switch on or off"),
        ("inception_v3", {"size": 32}, "does not work at 32 px (RuntimeError: "),
        ("test_vit3", {}, "choose one that averages over positions or a plain VisionTransformer"),
        ("xcit_nano_12_p16_224", {}, "choose one that averages over positions"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(
    name: str, options: dict[str, float], expected: str
) -> None:
    with pytest.raises(CossError) as caught:
        build_encoder(f"timm:{name}", **{"size": 64, **options})  # type: ignore[arg-type]
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_timm_is_answered_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # `import timm` then raises ImportError
    with pytest.raises(CossError, match=r"pip install 'robustbench-coss\[models\]'"):
        build_encoder("timm:resnet10t", size=32)
