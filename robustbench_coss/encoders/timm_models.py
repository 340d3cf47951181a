"""Architectures of the package timm as encoders: `timm:NAME`, freshly initialised.

Nothing is downloaded. The seam lies before the last operation that mixes positions into the
global representation: an average over positions, or a ViT's last block, which its class token
reads the patches through.
"""

from __future__ import annotations

import difflib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.encoders.resnet import Strided1x1
from robustbench_coss.errors import CossError

PREFIX_SCALE = 2.0**-12
"""Factor on the class token's channels in a local map: exact in floating point, and so small that
lengths and cosines of local representations are those of the patch tokens."""


class AveragingModel(Encoder):
    """A timm model that averages over positions, a CNN or a transformer, with what its head does.

    `local` is the last feature map, or the last patch tokens laid out as a map. `pool` is the
    model's own; with `keep`, its head sees the mean of the kept positions as the only position.

    Args:
        model: built with `num_classes=0`.
        input: the pixel contract.
        layout: of the model's features: "NCHW", "NHWC" or "NLC" (tokens, prefix tokens first).
    """

    def __init__(self, model: Any, input: InputSpec, layout: str) -> None:
        super().__init__(input, local_dim=model.num_features, dim=model.head_hidden_size)
        self.model, self.layout = model, layout
        self.prefixes: int = getattr(model, "num_prefix_tokens", 0)

    def local(self, x: Tensor) -> Tensor:
        features: Tensor = self.model.forward_features(self.normalise(x))
        if self.layout == "NHWC":
            return features.permute(0, 3, 1, 2)
        if self.layout == "NLC":
            patches = features[:, self.prefixes :]
            height = round((patches.shape[1] * x.shape[2] / x.shape[3]) ** 0.5)
            return patches.transpose(1, 2).reshape(len(x), self.local_dim, height, -1)
        return features

    def pool(self, local: Tensor, keep: Tensor | None = None) -> Tensor:
        if keep is not None:
            local = super().pool(local, keep)[:, :, None, None]
        if self.layout == "NHWC":
            local = local.permute(0, 2, 3, 1)
        elif self.layout == "NLC":  # the average leaves prefix tokens out: their values are free
            local = nn.functional.pad(local.flatten(2).transpose(1, 2), (0, 0, self.prefixes, 0))
        pooled: Tensor = self.model.forward_head(local)
        return pooled


class ClassTokenViT(Encoder):
    """A timm VisionTransformer whose global representation is its class token.

    A class token reads the patches through attention and is a state of its own on the way up, so
    the pooling of this encoder is the last block: `local` gives the patch tokens that enter it,
    `pool` runs it, the final norm and the model's head. The class token that enters the last block
    (and register tokens, if any) travels with the map: appended to the channels of every position,
    times `PREFIX_SCALE`. `pool` takes its mean over the positions that carry it, which are those
    not set to zero; so a hidden position takes a patch token away and never the class token.
    `keep` drops patch tokens from the last block; with none kept, it sees the class token alone.

    Args:
        model: a VisionTransformer built with `num_classes=0` and class-token pooling.
        input: the pixel contract.
    """

    def __init__(self, model: Any, input: InputSpec) -> None:
        dim, prefixes = int(model.num_features), int(model.num_prefix_tokens)
        super().__init__(input, local_dim=dim * (1 + prefixes), dim=dim)
        self.model, self.prefixes = model, prefixes

    def local(self, x: Tensor) -> Tensor:
        ((patches, prefix),) = self.model.forward_intermediates(
            self.normalise(x),
            indices=[len(self.model.blocks) - 2],
            return_prefix_tokens=True,
            stop_early=True,
            intermediates_only=True,
        )
        carried = PREFIX_SCALE * prefix.flatten(1)[:, :, None, None]
        return torch.cat([patches, carried.expand(-1, -1, *patches.shape[2:])], dim=1)

    def pool(self, local: Tensor, keep: Tensor | None = None) -> Tensor:
        carried = local[:, self.dim :].flatten(2)
        carriers = (carried != 0).any(dim=1).sum(dim=1).clamp_min(1)
        prefix = carried.sum(dim=2) / (PREFIX_SCALE * carriers[:, None])
        prefix = prefix.view(-1, self.prefixes, self.dim)
        patches = local[:, : self.dim].flatten(2).transpose(1, 2)
        if keep is None:
            return self._read(prefix, patches)
        kept = keep.flatten(1)
        counts = kept.sum(dim=1)
        pooled = patches.new_empty(len(patches), self.dim)
        for count in sorted(set(counts.tolist())):  # sequences of one batch have one length
            same = counts == count
            chosen = patches[same][kept[same]].view(int(same.sum()), count, self.dim)
            pooled[same] = self._read(prefix[same], chosen).to(pooled.dtype)
        return pooled

    def _read(self, prefix: Tensor, patches: Tensor) -> Tensor:
        """The global representation that the last block and the head make of tokens [B, N, D]."""
        tokens = self.model.blocks[-1](torch.cat([prefix, patches], dim=1))
        read: Tensor = self.model.forward_head(self.model.norm(tokens))
        return read


def timm_encoder(name: str, size: int, width: float = 1.0) -> Encoder:
    """The timm model `name`, freshly initialised, for images of `size` px.

    Normalisation is that of the model's pretrained configuration.

    Args:
        name: as in `timm.list_models()`.
        size: image side in px; a ViT's grid of positions is made for it.
        width: must be 1; timm has models of other widths under other names.

    Raises:
        CossError: timm is not installed, no such model, a width, a size that the model does not
            take, or a model whose pooling cannot leave out positions.
    """
    timm = _timm()
    if width != 1:
        raise CossError(f"timm models have a fixed width; drop the width {width:g}")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise CossError(f"unknown timm model {name!r}; {hint}`timm.list_models()` gives all names")
    try:
        model = _create(timm, name, size)
        config = timm.data.resolve_model_data_config(model)
        spec = InputSpec(size, tuple(config["mean"]), tuple(config["std"]))
        encoder, faithful = _wrap(timm, model, spec)
    except Exception as error:  # each model has its own way to refuse a size
        reason = " ".join(str(error).split())[:160]
        own = timm.get_pretrained_cfg(name).input_size[-1]
        raise CossError(
            f"timm model {name!r} does not work at {size} px ({type(error).__name__}: {reason}); "
            f"it is made for {own} px"
        ) from error
    if not faithful:
        raise CossError(
            f"timm model {name!r} makes its features in a way that local representations cannot "
            "be left out of; choose one that averages over positions or a plain VisionTransformer"
        )
    return encoder


def _timm() -> ModuleType:
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise CossError(
            "timm:NAME needs the package timm; run pip install 'robustbench-coss[models]'"
        ) from error
    module: ModuleType = timm
    return module


def _create(timm: Any, name: str, size: int) -> Any:
    """The model without classifier, made for `size` px and, where it can, taking other sizes."""
    for options in ({"img_size": size, "dynamic_img_size": True}, {"img_size": size}, {}):
        try:
            model = timm.create_model(name, pretrained=False, num_classes=0, **options)
            break
        except TypeError as error:
            if not options or "img_size" not in str(error):
                raise
    _subsample_before_strided_1x1(model)
    return model


def _subsample_before_strided_1x1(model: nn.Module) -> None:
    """Replace strided 1×1 convolutions by `Strided1x1` with the same parameters."""
    for parent in list(model.modules()):
        for key, child in list(parent.named_children()):
            if (
                type(child) is nn.Conv2d
                and child.kernel_size == (1, 1)
                and child.stride[0] == child.stride[1] > 1
                and child.padding == (0, 0)
                and child.groups == 1
            ):
                safe = Strided1x1(
                    child.in_channels, child.out_channels, 1, child.stride[0], device="meta"
                )
                safe.weight, safe.bias = child.weight, child.bias
                setattr(parent, key, safe)


@torch.no_grad()
def _wrap(timm: Any, model: Any, spec: InputSpec) -> tuple[Encoder, bool]:
    """The encoder of a model, and whether it gives the model's features and can leave out some.

    Tried on one image rather than looked up by family: timm has some 70 of them.
    """
    image = torch.rand(1, 3, spec.size, spec.size, generator=torch.Generator().manual_seed(0))
    model.eval()
    encoder: Encoder
    if isinstance(model, timm.models.VisionTransformer) and model.global_pool == "token":
        encoder = ClassTokenViT(model, spec)
    else:
        features = model.forward_features(image)
        layout = "NLC" if features.dim() == 3 else getattr(model, "output_fmt", "NCHW")
        encoder = AveragingModel(model, spec, layout)
    local = encoder.local(image)
    expected = model(encoder.normalise(image))
    everything = torch.ones(1, *local.shape[2:], dtype=torch.bool)
    faithful = local.shape[1] == encoder.local_dim and all(
        pooled.shape == expected.shape == (1, encoder.dim)
        and bool((pooled - expected).abs().max() <= 1e-3 * expected.abs().max())
        for pooled in (encoder.pool(local), encoder.pool(local, everything))
    )
    return encoder.train(), faithful
