"""Checkpoints laid out as the code of other tools saves them, and the networks that are in them.

Each function gives the content of a file and a network, of torchvision's, timm's or the tool's own
modules, whose answer for normalised pixels is the feature (or the logits) that the tool computes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import timm
import torch
from lightly.models import ResNetGenerator
from lightly.models.modules import MaskedVisionTransformerTIMM, MaskedVisionTransformerTorchvision
from timm.layers import SwiGLUPacked
from torch import Tensor, nn
from torchvision import models as tv

from helpers.foreign_files import State, put
from robustbench_coss.models.checkpoint import Checkpoint

Layout = tuple[Any, Callable[[Tensor], Tensor]]


def drawn(network: nn.Module) -> Any:
    """A network whose weights and statistics are all drawn, and none at its initial value."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for parameter in network.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        for key, buffer in network.named_buffers():
            if key.endswith(("running_mean", "running_var")):
                buffer.add_(0.5 * torch.rand_like(buffer))
    return network.eval()


def assert_computes(loaded: Checkpoint, network: Callable[[Tensor], Tensor], side: int) -> None:
    """The encoder, with its classifier if it has one, gives what a network gives."""
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(loaded.encoder.normalise(images))
        found = loaded.encoder(images)
        found = found if loaded.head is None else loaded.head(found)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def changed(state: State) -> State:
    """Another network of the same names."""
    return {key: value * 0.9 for key, value in state.items()}


@cache
def vit(**options: Any) -> Any:
    known = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2}
    return drawn(timm.models.VisionTransformer(**known | {"num_classes": 0} | options))


class TinyResNet(tv.ResNet):  # type: ignore[misc]
    """torchvision's ResNet with an eighth of the channels.

    Args:
        counts: blocks of the stages.
        classes: of the classifier; 0 for none.
        kernel, stride, padding, pool: of the stem.
    """

    def __init__(
        self,
        counts: tuple[int, ...] = (2, 2, 2, 2),
        classes: int = 0,
        kernel: int = 3,
        stride: int = 1,
        padding: int = 1,
        pool: bool = False,
    ) -> None:
        super().__init__(tv.resnet.BasicBlock, [1, 1, 1, 1])
        self.inplanes = 8
        self.conv1 = nn.Conv2d(3, 8, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        for stage, count in enumerate(counts, 1):
            step = 1 if stage == 1 else 2
            layer = self._make_layer(tv.resnet.BasicBlock, 8 * 2 ** (stage - 1), count, step)
            setattr(self, f"layer{stage}", layer)
        if not pool:
            self.maxpool = nn.Identity()
        self.fc: Any = nn.Linear(64, classes) if classes else nn.Identity()


COUNTS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}


def small_resnet(name: str = "resnet18", classes: int = 10, **stem: Any) -> Any:
    """A ResNet with a stem of its own, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return drawn(TinyResNet(COUNTS[name], classes, **stem))


@cache
def resnet() -> Any:
    return small_resnet(classes=0, kernel=7, stride=2, padding=3, pool=True)


def without_head(network: Any) -> State:
    return {k: v for k, v in network.state_dict().items() if not k.startswith(("fc.", "head."))}


def lightning(state: State, **more: Any) -> dict[str, Any]:
    return {"pytorch-lightning_version": "2.6", "epoch": 1, "state_dict": state, **more}


PROJECTOR = {"0.weight": torch.zeros(4, 4), "2.weight": torch.zeros(4, 4)}


# ---- ResNets ----


def moco() -> Layout:
    """moco/main_moco.py, builder.py."""
    state = without_head(resnet()) | put("fc.", PROJECTOR)
    state = put("module.encoder_q.", state) | put("module.encoder_k.", changed(state))
    state |= {"module.queue": torch.zeros(4, 8), "module.queue_ptr": torch.zeros(1)}
    return {"epoch": 1, "arch": "resnet18", "state_dict": state, "optimizer": {}}, resnet()


def simsiam() -> Layout:
    """simsiam/main_simsiam.py, builder.py."""
    state = put("module.encoder.", without_head(resnet()) | put("fc.", PROJECTOR))
    state |= put("module.predictor.", PROJECTOR)
    return {"epoch": 1, "arch": "resnet18", "state_dict": state, "optimizer": {}}, resnet()


def barlow_twins() -> Layout:
    """barlowtwins/main.py."""
    state = put("module.backbone.", without_head(resnet())) | put("module.projector.", PROJECTOR)
    return {"epoch": 1, "model": state | {"module.bn.running_mean": torch.zeros(4)}}, resnet()


class DoubledResNet(tv.ResNet):  # type: ignore[misc]
    """swav/src/resnet50.py with `widen=2`, of an eighth of the channels: every width is doubled."""

    def __init__(self) -> None:
        super().__init__(tv.resnet.BasicBlock, [1, 1, 1, 1])
        self.inplanes = 16
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16)
        for stage, (planes, stride) in enumerate(((16, 1), (32, 2), (64, 2), (128, 2)), 1):
            layer = self._make_layer(tv.resnet.Bottleneck, planes, 2, stride)
            setattr(self, f"layer{stage}", layer)
        self.fc = nn.Identity()


def swav() -> Layout:
    """swav/main_swav.py."""
    state = without_head(resnet()) | put("projection_head.", PROJECTOR)
    state |= {"prototypes.weight": torch.zeros(4, 4)}
    return {"epoch": 1, "state_dict": put("module.", state), "optimizer": {}}, resnet()


def doubled_swav() -> Layout:
    """The published file of doubled width: a plain state dict."""
    network = drawn(DoubledResNet())
    state = without_head(network) | put("projection_head.", PROJECTOR)
    return put("module.", state | {"prototypes.weight": torch.zeros(4, 4)}), network


def supcon() -> Layout:
    """SupContrast/networks/resnet_big.py: `shortcut`, and DataParallel on the encoder alone."""
    network = small_resnet(classes=0)
    state = {k.replace("downsample", "shortcut"): v for k, v in network.state_dict().items()}
    state = put("encoder.module.", state) | put("head.", PROJECTOR)
    options = {"dataset": "cifar100", "model": "resnet18"}
    return {"opt": options, "model": state, "optimizer": {}, "epoch": 1}, network


def byol_pytorch() -> Layout:
    """byol-pytorch's learner.state_dict(); `net.fc` is what torchvision drew."""
    state = resnet().state_dict() | {"fc.weight": torch.zeros(1000, 64)}
    heads = put("online_predictor.net.", PROJECTOR)
    online, target = put("online_encoder.net.", state), put("target_encoder.net.", changed(state))
    return put("net.", state) | online | target | heads, resnet()


def simclr_port() -> Layout:
    """SimCLR/models/resnet_simclr.py of sthalles."""
    state = put("backbone.", without_head(resnet()) | put("fc.", PROJECTOR))
    return {"epoch": 1, "arch": "resnet18", "state_dict": state, "optimizer": {}}, resnet()


def lightly_generator() -> Layout:
    network = ResNetGenerator("resnet-18")
    network = drawn(
        nn.Sequential(*list(network.children())[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    )
    return lightning(put("backbone.", network.state_dict())), network


# ---- transformers ----


def dino(patch: int = 4) -> Layout:
    """dino/main_dino.py."""
    network = vit(patch_size=patch)
    state = network.state_dict()
    return {
        "student": put("module.backbone.", changed(state)) | put("module.head.mlp.", PROJECTOR),
        "teacher": put("backbone.", state) | put("head.mlp.", PROJECTOR),
        "optimizer": {},
        "epoch": 1,
        "dino_loss": {"center": torch.zeros(1, 4)},
    }, network


def ibot() -> Layout:
    """ibot/main_ibot.py."""
    content, network = dino(8)
    del content["dino_loss"]
    content["student"]["module.backbone.masked_embed"] = torch.zeros(1, 128)
    return content | {"ibot_loss": {"center": torch.zeros(1, 4)}}, network


def swin_teacher() -> Layout:
    """esvit/main_esvit.py; patches merge at the end of a stage in the original's names."""
    network = timm.models.SwinTransformer(
        img_size=56, embed_dim=24, depths=(2, 2), num_heads=(2, 4), num_classes=0
    )
    network = drawn(network)
    state = {}
    for key, value in network.state_dict().items():
        if ".downsample." in key:
            stage = int(key.split(".")[1])
            key = key.replace(f"layers.{stage}.", f"layers.{stage - 1}.")
        state[key] = value
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 49, 49)  # 2 × 2 windows
    student = {k: v + 1 for k, v in state.items()}
    return {
        "student": put("module.backbone.", student),
        "teacher": put("module.backbone.", state),
    }, network


def mae_network(**options: Any) -> Any:
    network = vit(embed_dim=768, num_heads=12, depth=1, **options)
    network.pos_embed.data[:, 0] = 0
    return network


def mae() -> Layout:
    """mae/main_pretrain.py: the decoder beside the encoder."""
    network = mae_network()
    decoder = {"decoder_embed.weight": torch.zeros(8, 768), "mask_token": torch.zeros(1, 1, 8)}
    decoder |= {"decoder_pos_embed": torch.zeros(1, 17, 8), "decoder_pred.bias": torch.zeros(9)}
    decoder |= put("decoder_blocks.0.", {"norm1.weight": torch.zeros(8)})
    return {"model": network.state_dict() | decoder, "epoch": 1, "scaler": {}}, network


def mae_published() -> Layout:
    network = mae_network()
    return {"model": network.state_dict()}, network


def mae_fine_tuned() -> Layout:
    """mae/models_vit.py with global_pool: the mean of the patches, then a norm."""
    network = vit(embed_dim=768, num_heads=12, depth=1, num_classes=7, global_pool="avg")
    return {"model": network.state_dict(), "epoch": 1}, network


def mae_probe() -> Layout:
    """mae/main_linprobe.py: a batch norm without weights before the layer."""
    network = copy.deepcopy(mae_network())
    norm = nn.BatchNorm1d(768, affine=False, eps=1e-6)
    network.head = drawn(nn.Sequential(norm, nn.Linear(768, 5)))
    return {"model": network.state_dict(), "epoch": 1}, network


def ijepa() -> Layout:
    """ijepa/src/train.py."""
    network = vit(class_token=False, global_pool="avg", fc_norm=False)
    state = network.state_dict()
    return {
        "encoder": put("module.", changed(state)),
        "predictor": put("module.", PROJECTOR),
        "opt": {},
        "target_encoder": put("module.", state),
        "scaler": None,
        "lr": 0.1,
    }, network


def msn() -> Layout:
    """msn/src/msn_train.py."""
    state = vit().state_dict()
    target = state | put("fc.", {"fc1.weight": torch.zeros(4, 4)})
    return {
        "encoder": put("module.", changed(state)),
        "target_encoder": put("module.", target),
        "prototypes": torch.zeros(4, 4),
        "opt": {},
    }, vit()


def chunked(state: State) -> State:
    """DINOv2's two blocks in two chunks, the second number that of the block."""
    found = {}
    for key, value in state.items():
        number = key.split(".")[1] if key.startswith("blocks.") else ""
        found[key.replace(f"blocks.{number}.", f"blocks.{number}.{number}.") if number else key] = (
            value
        )
    return found


def dinov2() -> Layout:
    """dinov2's published files."""
    network = vit(init_values=1.0)
    return network.state_dict() | {"mask_token": torch.zeros(1, 128)}, network


def dinov2_teacher() -> Layout:
    """dinov2/train/train.py: eval/training_N/teacher_checkpoint.pth."""
    network = vit(init_values=1.0)
    state = chunked(network.state_dict()) | {"mask_token": torch.zeros(1, 128)}
    heads = put("dino_head.", PROJECTOR) | put("ibot_head.", PROJECTOR)
    return {"teacher": put("backbone.", state) | heads}, network


def dinov2_registers() -> Layout:
    """dinov2's files with registers: the class token has a position, the registers have none."""
    network = vit(init_values=1.0, reg_tokens=4, no_embed_class=True)
    state = network.state_dict()
    position = torch.full((1, 1, 128), 0.25)
    state["cls_token"] = state["cls_token"] - position
    state["pos_embed"] = torch.cat([position, state["pos_embed"]], dim=1)
    state["register_tokens"] = state.pop("reg_token")
    return state | {"mask_token": torch.zeros(1, 128)}, network


def dinov2_giant() -> Layout:
    """dinov2/layers/swiglu_ffn.py."""
    network = vit(init_values=1.0, mlp_layer=SwiGLUPacked, act_layer=nn.SiLU, mlp_ratio=5.0)
    names = {"mlp.fc1": "mlp.w12", "mlp.fc2": "mlp.w3"}
    state = {}
    for key, value in network.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        state[key] = value
    return state | {"mask_token": torch.zeros(1, 128)}, network


def lightly_msn() -> Layout:
    """lightly/examples/pytorch_lightning/msn.py: `backbone` follows `anchor_backbone`."""
    inner = tv.VisionTransformer(32, 8, 2, 2, 128, 256)
    network = drawn(MaskedVisionTransformerTorchvision(vit=inner))
    state = network.state_dict()
    return lightning(put("backbone.", state) | put("anchor_backbone.", changed(state))), network


def lightly_dinov2() -> Layout:
    """lightly/examples/pytorch_lightning/dinov2.py, and ibot.py."""
    network = MaskedVisionTransformerTIMM(
        vit=copy.deepcopy(vit(init_values=1.0)), pos_embed_initialization="skip"
    ).eval()
    state = network.state_dict()
    both = put("teacher_backbone.", state) | put("student_backbone.", changed(state))
    return lightning(both | put("teacher_head.dino_head.", PROJECTOR)), network


def lightly_simmim() -> Layout:
    """lightly/examples/pytorch_lightning/simmim.py."""
    content, network = lightly_msn()
    state = {k: v for k, v in content["state_dict"].items() if not k.startswith("anchor")}
    return lightning(state | {"decoder.weight": torch.zeros(4, 4)}), network
