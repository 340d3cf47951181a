"""Every family of timm is measured: with its seam where that is known, else as a whole."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from robustbench_coss.models.load import load_model

timm = pytest.importorskip("timm", reason="needs the extra `models`")

NAMES = """
halonet_h1 test_byobnet cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32 test_convnext
cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_focus_s cspnext_tiny davit_tiny
deit_tiny_patch16_224 densenet121 dla46x_c dpn48b edgenext_xx_small efficientformer_l1
efficientformerv2_s0 test_efficientnet efficientvim_m1 efficientvit_b0 efficientvit_m0
eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny ghostnet_050
hardcorenas_b hgnetv2_b0 hiera_tiny_224 hieradet_small hrnet_w18_small iformer_t
inception_next_atto inception_v3 lcnetv2_small levit_128s lowformer_b0 test_mambaout
test_coatnet poolformerv2_s12 gmlp_ti16_224 mobilenetv3_small_050 mobilevit_xxs mvitv2_tiny
nest_tiny nextvit_small test_nfnet pit_ti_224 pvt_v2_b0 rdnet_tiny regnetx_002 repghostnet_050
repvit_m1 res2next50 resnest14d test_resnet resnetv2_18 rexnet_100 selecsls42
legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs
swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224
tnt_s_legacy_patch16_224 tresnet_m twins_svt_small visformer_tiny test_vit
vit_tiny_r_s16_p8_224 test_vit_relpos vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw
legacy_xception xception41p xcit_nano_12_p8_224
beit_base_patch16_224 deepseek_vit_412m gemma4_vit_167m inception_resnet_v2 inception_v4
mobilenetv5_base naflexvit_base_patch16_gap nasnetalarge pnasnet5large qwen3_vit_88m vgg11
samvit_base_patch16_224
"""
SMALLEST = NAMES.split()
"""The smallest model of each family (module of `timm.models`)."""

FAST = 64
"""Image side in px for models that take any."""

SIZES = {
    "halonet_h1": None,
    "deepseek_vit_412m": 56,
    "vgg11": 32,
    **dict.fromkeys(["inception_v3", "inception_v4", "inception_resnet_v2"], 96),
    **dict.fromkeys(["nasnetalarge", "pnasnet5large"], 96),
}
"""Of models that take not quite any, or need not take more."""

BLOCKS = {
    **dict.fromkeys(["beit_base_patch16_224", "samvit_base_patch16_224"], 2),
    **dict.fromkeys(["deepseek_vit_412m", "gemma4_vit_167m", "qwen3_vit_88m"], 1),
    "naflexvit_base_patch16_gap": 1,
}
"""Of large transformers whose blocks are all alike: as many of them."""


def family(name: str) -> str:
    return str(timm.models._registry._model_to_module[name])


def test_every_family_has_a_model_here() -> None:
    assert sorted(family(name) for name in SMALLEST) == sorted(timm.list_modules())


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_a_model_of_every_family_gives_the_features_that_it_computes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in BLOCKS:
        made_by = timm.models._registry._model_entrypoints
        monkeypatch.setitem(made_by, name, partial(made_by[name], depth=BLOCKS[name]))
    fixed = timm.get_pretrained_cfg(name).fixed_input_size
    loaded = load_model(f"timm:{name}", size=None if fixed else SIZES.get(name, FAST))
    side = loaded.encoder.input.size
    network: Any = getattr(loaded.encoder, "model", None) or loaded.encoder.module
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(loaded.encoder.normalise(image))
        torch.testing.assert_close(loaded.encoder(image), expected, atol=1e-4, rtol=1e-3)
    assert loaded.head is None
