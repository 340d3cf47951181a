"""What pixels a model of transformers expects, from its own image processor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from robustbench_coss.datasets.geometry import Geometry
from robustbench_coss.encoders.base import InputSpec
from robustbench_coss.errors import CossError, kind_and_line
from robustbench_coss.models.other_tools.format import CLIP, HALF, Colours

FILES = ("preprocessor_config.json", "processor_config.json")
COLOURS: dict[Colours, tuple[str, ...]] = {
    HALF: ("vit", "beit", "data2vec-vision", "siglip_vision_model", "siglip2_vision_model"),
    CLIP: ("clip_vision_model", "chinese_clip_vision_model"),
}
"""Mean and standard deviation of the families whose published models do not take ImageNet's."""

OF_IMAGENET = (
    *("deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "dinov3_convnext", "vit_mae"),
    *("vit_msn", "ijepa", "resnet", "regnet", "convnext", "convnextv2", "swin", "swinv2"),
)
"""Families whose published models take ImageNet's."""

MOST_APART = 1e-4
"""How far apart the processor's and this tool's pixels may be on a picture that is only normalised;
one grey level is about 0.02."""


def input_of(
    folder: Path, config: Any, size: int | None, colours: Colours | None = None
) -> tuple[InputSpec, str]:
    """The pixel contract of a model, and where it is from, in words.

    Args:
        folder: of the model, as `save_pretrained` leaves it.
        config: the model's configuration.
        size: side in px that is asked for; None takes the processor's.
        colours: mean and standard deviation that are asked for in place of the processor's.

    Raises:
        CossError: the processor cannot be made, or does more than resize, cut and normalise.
    """
    if not any((folder / name).is_file() for name in FILES):
        return _unstated(config, size, colours)
    try:
        from transformers import AutoImageProcessor

        processor = AutoImageProcessor.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # of many kinds
        reason = kind_and_line(error, 100)
        raise CossError(
            f"the {FILES[0]} in {folder} cannot be used ({reason}); put "
            "that of the model it was made from there"
        ) from error
    made_for, geometry = _geometry(processor)
    side = size or made_for
    assert geometry.resize is not None
    scaled = replace(geometry, resize=round(geometry.resize * side / made_for))
    spec = InputSpec(side, *_colours(processor), scaled)
    _try(processor, spec, folder)
    if colours is not None:
        return InputSpec(side, *colours, scaled), "the options"
    return spec, f"its {type(processor).__name__.removesuffix('Fast').removesuffix('Pil')}"


def _unstated(config: Any, size: int | None, asked: Colours | None) -> tuple[InputSpec, str]:
    """What the published models of a family are made for."""
    stated = getattr(config, "image_size", None)
    side = size or (stated[0] if isinstance(stated, (list, tuple)) else stated) or 224
    kind = str(config.model_type)
    if asked is not None:
        return InputSpec(side, *asked), "the options"
    colours = next((found for found, names in COLOURS.items() if kind in names), None)
    spec = InputSpec(side) if colours is None else InputSpec(side, *colours)
    whose = f"the published models of {kind}"
    if colours is None and kind not in OF_IMAGENET:
        whose = f"ImageNet, for want of any statement about {kind}"
    return spec, (
        f"{whose}, since its folder has no {FILES[0]} (copy it there, or pass --mean and --std, if "
        "this one was made for others)"
    )


def _geometry(processor: Any) -> tuple[int, Geometry]:
    """The side in px that a processor makes, and how."""
    size, crop = _sides(processor, "size"), _sides(processor, "crop_size")
    shortest = size.get("shortest_edge")
    resample = processor.resample
    kind = getattr(resample, "value", resample)
    kind = kind if isinstance(kind, str) else Image.Resampling(kind).name.lower()
    if getattr(processor, "crop_pct", None) and shortest:  # ConvNeXt's: cut below 384 px
        if shortest >= 384:
            return shortest, Geometry(shortest, kind, "squash")
        return shortest, Geometry(int(shortest / processor.crop_pct), kind)
    if shortest:
        cut = crop.get("height") or crop.get("shortest_edge")
        return (cut if processor.do_center_crop and cut else shortest), Geometry(shortest, kind)
    side = size.get("height") or size.get("longest_edge")
    if not side or side != size.get("width", side):
        raise CossError(f"its pictures are {size}, and only square ones can be measured")
    if getattr(processor, "do_center_crop", False) and crop.get("height"):
        return crop["height"], Geometry(side, kind, "squash")
    return side, Geometry(side, kind, "squash")


def _sides(processor: Any, name: str) -> dict[str, int]:
    found = getattr(processor, name, None)
    if found is None:
        return {}
    if isinstance(found, int):
        return {"height": found, "width": found}
    return {key: value for key, value in dict(found).items() if value is not None}


def _colours(processor: Any) -> Colours:
    """Mean and standard deviation in units of pixels in [0, 1]."""
    factor = processor.rescale_factor * 255 if processor.do_rescale else 255.0
    mean, std = processor.image_mean, processor.image_std
    if not getattr(processor, "do_normalize", False):
        mean, std = 0.0, 1.0
    means, stds = ([v] * 3 if isinstance(v, (int, float)) else list(v) for v in (mean, std))
    r, g, b = (value / factor for value in means)
    dr, dg, db = (value / factor for value in stds)
    return (r, g, b), (dr, dg, db)


def _try(processor: Any, spec: InputSpec, folder: Path) -> None:
    """Refuse a processor that does anything but normalise a picture of the right size."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (spec.size, spec.size, 3), generator=generator)
    picture = Image.fromarray(noise.to(torch.uint8).numpy())
    made = processor(picture, return_tensors="pt", do_resize=False, do_center_crop=False)
    pixels = noise.permute(2, 0, 1) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    found, expected = made["pixel_values"][0], (pixels - mean) / std
    if found.shape != expected.shape or bool((found - expected).abs().max() > MOST_APART):
        raise CossError(
            f"{folder}: {type(processor).__name__} does more to pictures than to resize, cut and "
            f"normalise ({json.dumps(list(found.shape))}); such models cannot be measured"
        )
