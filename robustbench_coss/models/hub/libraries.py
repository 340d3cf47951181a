"""Models that timm and open_clip keep on the Hub or in folders and files, by those libraries.

`timm:hf-hub:ORG/NAME[@REVISION]`, `open_clip:NAME:TAG`, `open_clip:NAME:FILE`,
`open_clip:hf-hub:ORG/NAME[@REVISION]`, and folders with their configurations.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_coss.datasets.geometry import Geometry
from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.encoders.class_token import ClassTokenEncoder
from robustbench_coss.encoders.timm_models import geometry_from, timm_module
from robustbench_coss.errors import CossError, did_you_mean, kind_and_line
from robustbench_coss.files import sha256_of
from robustbench_coss.models.checkpoint import Checkpoint, foreign_metadata
from robustbench_coss.models.containers import load_torch, read_safetensors
from robustbench_coss.models.hub.fetch import file_of, folder_of, quiet
from robustbench_coss.models.identity import state_sha256
from robustbench_coss.models.libraries import IMAGENET_CLASSES, cut_or_opaque, fetched, fresh
from robustbench_coss.models.seams import Cut, Followed, cut, faithful
from robustbench_coss.models.wrap import OpaqueEncoder, describe_input

CLIP_CONFIG = "open_clip_config.json"
HUB = "hf-hub"
MODES = {"shortest": "center", "longest": "border", "squash": "squash"}
"""What open_clip calls the ways of resizing, and what they are called here."""


# ---- timm ----


def timm_from_hub(name: str, size: int | None) -> Checkpoint:
    """`timm:hf-hub:ORG/NAME[@REVISION]`. Raises CossError as `folder_of` and `timm_folder`."""
    folder, commit = folder_of(name)
    return timm_folder(folder, size, f"timm:{HUB}:{name}", commit)


def timm_folder(folder: Path, size: int | None, spec: str = "", commit: str = "") -> Checkpoint:
    """A model that timm's `save_for_hf` or the Hub left in a folder.

    Raises:
        CossError: timm is missing or cannot read it, or a size that the model does not take.
    """
    timm = timm_module(what=str(spec or folder))
    options = {} if size is None else {"img_size": size}
    with fetched(f"the timm model in {folder}", _remedy(size)):
        try:
            model = timm.create_model(f"local-dir:{folder}", pretrained=True, **options)
        except TypeError:  # a network that takes any size
            model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    config = dict(model.pretrained_cfg)
    side = size or config["input_size"][-1]
    colours = timm.data.resolve_data_config(pretrained_cfg=config)
    geometry = geometry_from(config, side)
    spec_ = InputSpec(side, tuple(colours["mean"]), tuple(colours["std"]), geometry)
    classes = int(model.num_classes)
    parts = cut_or_opaque(model, spec_, spec or str(folder))
    parts = parts if classes else Cut(parts.encoder, None, None)
    arch = spec.partition("@")[0] if spec else f"timm:{config['architecture']}"
    return _checkpoint(spec, folder, arch, parts, "timm's configuration", commit)


# ---- open_clip ----


class OpenClipViT(ClassTokenEncoder):
    """open_clip's own vision transformer, up to its image embedding."""

    def __init__(self, visual: Any, input: InputSpec, dim: int) -> None:
        super().__init__(input, dim=visual.conv1.out_channels, prefixes=1)
        self.visual, self.dim = visual, dim

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.visual._embeds(x)
        for block in self.visual.transformer.resblocks[:-1]:
            tokens = block(tokens)
        side = x.shape[-1] // self.visual.patch_size[0]
        patches = tokens[:, 1:].transpose(1, 2)
        return patches.reshape(*patches.shape[:2], side, -1), tokens[:, :1]

    def read(self, tokens: Tensor) -> Tensor:
        pooled, _ = self.visual._pool(self.visual.transformer.resblocks[-1](tokens))
        found: Tensor = pooled if self.visual.proj is None else pooled @ self.visual.proj
        return found


def open_clip_model(spec: str, size: int | None) -> Checkpoint:
    """The vision tower of `open_clip:NAME:TAG`, `open_clip:NAME:FILE` or `open_clip:hf-hub:…`.

    Features are its image embedding, as `encode_image` gives it.

    Raises:
        CossError: no such model or tag, weights that cannot be had or do not fit, or a size that
            the model does not take.
    """
    _, _, rest = spec.partition(":")
    name, _, weights = rest.partition(":")
    if name == HUB:
        folder, commit = folder_of(weights, CLIP_CONFIG)
        return open_clip_folder(folder, size, spec, commit)
    clip = _open_clip()
    if name not in clip.list_models():
        hint = did_you_mean(name, clip.list_models(), "`open_clip.list_models()` gives all names")
        raise CossError(f"unknown open_clip model {name!r}; {hint}")
    tags = clip.list_pretrained_tags_by_model(name)
    config = clip.get_pretrained_cfg(name, weights) if weights in tags else None
    if config is None and not Path(weights).is_file():
        raise CossError(
            f"open_clip has no weights {weights!r} for {name}; it has: "
            f"{', '.join(tags) or 'none'}; or pass a file, open_clip:{name}:FILE"
        )
    quick = bool((clip.get_model_config(name) or {}).get("quick_gelu"))
    if config is not None and quick and not config.get("quick_gelu"):
        raise CossError(
            f"the weights {weights} were not trained with QuickGELU, which {name} has; use "
            f"open_clip:{name.removesuffix('-quickgelu')}:{weights}"
        )
    configs = [config] if config else [clip.get_pretrained_cfg(name, tag) for tag in tags]
    options: dict[str, Any] = {
        "force_image_size": size,
        "force_quick_gelu": quick or bool(config and config.get("quick_gelu")),
        "force_preprocess_cfg": _agreed(configs),
        "pretrained_text": False,
    }
    path = Path(weights) if config is None else _weights(clip, config, spec)
    with quiet(), fresh():
        model = clip.create_model(name, **options)
    if config is None:
        _load_tower(clip, model, path, name, size)
        return _tower(model.visual, f"open_clip:{name}:{path.name}", path, f"open_clip's {name}")
    remedy = _remedy(size)
    with quiet(), fetched(f"the weights {weights} of open_clip's {name}", remedy):
        clip.factory.load_checkpoint(model, str(path), strict=True, weights_only=True)
    return _tower(model.visual, spec, None, f"open_clip's {name} {weights}")


def _weights(clip: Any, config: dict[str, Any], spec: str) -> Path:
    """The file of a tag of open_clip's, from a cache or downloaded."""
    if config.get("hf_hub"):
        return file_of(config["hf_hub"])
    with quiet(), fetched(f"the weights of {spec}"):
        return Path(clip.download_pretrained(config))


def open_clip_folder(
    folder: Path, size: int | None, spec: str = "", commit: str = ""
) -> Checkpoint:
    """The vision tower in a folder with `open_clip_config.json`. Raises as `open_clip_model`."""
    clip = _open_clip()
    with quiet(), fetched(f"the open_clip model in {folder}", _remedy(size)):
        model = clip.create_model(
            f"local-dir:{folder}",
            require_pretrained=True,
            force_image_size=size,
            pretrained_text=False,
        )
    return _tower(model.visual, spec, folder, "its configuration", commit)


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise CossError(
            "open_clip:NAME:WEIGHTS needs the package open_clip_torch; run pip install "
            "'robustbench-coss[hub]'"
        ) from error
    return open_clip


def _agreed(configs: list[dict[str, Any]]) -> dict[str, Any]:
    """Preprocessing in which all published weights of an architecture agree."""
    keys = ("mean", "std", "interpolation", "resize_mode")
    values = {key: {str(config.get(key)): config.get(key) for config in configs} for key in keys}
    return {
        key: value
        for key, found in values.items()
        if len(found) == 1 and (value := next(iter(found.values()))) is not None
    }


def _load_tower(clip: Any, model: Any, path: Path, name: str, size: int | None) -> None:
    """Load a file of the whole model, of its training, or of the tower alone.

    Positions are resampled for another size as open_clip does.
    """
    try:
        safe = path.suffix == ".safetensors"
        found: Any = read_safetensors(path)[1] if safe else load_torch(path)
        state = found.get("state_dict", found)
        state = {key.removeprefix("module."): value for key, value in state.items()}
        own = {k: v for k, v in state.items() if k.startswith("visual.")}
        own = own or {f"visual.{key}": value for key, value in state.items()}
        clip.model.resize_pos_embed(own, model)
        model.visual.load_state_dict({k.removeprefix("visual."): v for k, v in own.items()})
    except CossError:
        raise
    except Exception as error:  # of many kinds
        remedy = "" if size is None else f", or {_remedy(size)}"
        raise CossError(
            f"{path} does not fit the vision tower of open_clip's {name} ({kind_and_line(error)}); "
            f"name the architecture it was trained with{remedy}"
        ) from error


def _tower(visual: Any, spec: str, path: Path | None, source: str, commit: str = "") -> Checkpoint:
    config = visual.preprocess_cfg
    side = config["size"]
    side = int(side[0] if isinstance(side, (list, tuple)) else side)
    fill = (int(config["fill_color"]),) * 3
    kind = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
    geometry = Geometry(side, kind, MODES[config["resize_mode"]], fill)
    contract = InputSpec(side, tuple(config["mean"]), tuple(config["std"]), geometry)
    visual.eval()
    with torch.no_grad():
        dim = visual(torch.zeros(1, 3, side, side)).shape[1]
    encoder: Encoder = OpaqueEncoder(visual, contract, dim)
    with contextlib.suppress(Exception):  # a tower that is built otherwise has no seam here
        made = _with_seam(visual, contract, dim)
        encoder = made if faithful(Cut(made.eval(), None, None), visual) else encoder
    parts = Cut(encoder.eval(), None, None)
    arch = spec.partition("@")[0] if spec else "open_clip"
    return _checkpoint(spec, path, arch, parts, source, commit)


def _with_seam(visual: Any, contract: InputSpec, dim: int) -> Encoder:
    if hasattr(visual, "transformer"):
        return OpenClipViT(visual, contract, dim)
    inner = cut(visual.trunk, contract)
    assert inner is not None
    after = nn.Sequential(inner.head or nn.Identity(), visual.head)
    return Followed(inner.encoder, after, dim)


# ---- both ----


def _remedy(size: int | None) -> str:
    return "leave out --size" if size is not None else "download or save the model again"


def _checkpoint(
    spec: str, path: Path | None, arch: str, parts: Cut, source: str, commit: str
) -> Checkpoint:
    encoder, contract = parts.encoder, parts.encoder.input
    read = {"mean": [*contract.mean], "std": [*contract.std], "size": contract.size}
    state = [state_sha256(part) for part in (encoder, parts.head) if part is not None]
    geometry = contract.geometry.stored(contract.size)
    digest = sha256_of({"arch": arch, "state": state, "read": read, "geometry": geometry})
    name = spec.replace(":", "-").replace("/", "-") if spec or path is None else path.resolve().name
    imagenet = parts.classes == IMAGENET_CLASSES
    return Checkpoint(
        encoder,
        name,
        None,
        digest,
        foreign_metadata(
            arch,
            contract.size,
            source + (f", commit {commit}" if commit else ""),
            dataset="imagenet" if imagenet else None,
            reading=read | ({"commit": commit} if commit else {}),
        ),
        parts.head,
        parts.classes if parts.head is not None else None,
        describe_input(contract, source) + (f"; commit {commit[:12]}" if commit else ""),
    )
