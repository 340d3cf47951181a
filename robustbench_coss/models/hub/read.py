"""Models of transformers: `hf:ORG/NAME[@REVISION]`, and folders that `save_pretrained` left.

No code of a model's repository is run. Weights come from safetensors, or with `weights_only`.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustbench_coss.encoders.base import Encoder
from robustbench_coss.errors import CossError, few, kind_and_line
from robustbench_coss.files import sha256_of
from robustbench_coss.models.checkpoint import Checkpoint, foreign_metadata
from robustbench_coss.models.hub.fetch import CONFIG, MOST_CONFIG, NEEDS, folder_of, quiet
from robustbench_coss.models.hub.networks import POOLINGS, Whole, cut_model, of_family
from robustbench_coss.models.hub.pictures import input_of
from robustbench_coss.models.identity import state_sha256
from robustbench_coss.models.other_tools.format import Colours
from robustbench_coss.models.seams import Cut
from robustbench_coss.models.wrap import describe_input
from robustbench_coss.reading import parse_json, read_text

FIRST_CLASS = "tench"
"""How the labels of ImageNet-1K begin."""


def transformers_model(
    spec: str, size: int | None, pooling: str | None = None, colours: Colours | None = None
) -> Checkpoint:
    """A model of transformers, from the Hub (`hf:ORG/NAME[@REVISION]`) or a folder.

    Args:
        spec: its name, or the path of its folder.
        size: image side in px; None takes what its image processor makes.
        colours: mean and standard deviation of pixels in [0, 1]; None takes the processor's.
        pooling: what its features are, one of `POOLINGS`; None takes what its family's papers do.

    Raises:
        CossError: it cannot be had, needs code of its own, lacks weights, or does not take images
            of this size.
    """
    named = spec.startswith("hf:")
    folder, commit = folder_of(spec.removeprefix("hf:")) if named else (Path(spec), "")
    stated = _stated(folder, spec)
    model, labels = _load(folder, stated)
    config = model.config
    tower = _tower(model)
    picked, source = input_of(folder, tower.config, size, colours)
    try:
        parts, chosen = _cut(model, tower, picked, pooling)
    except CossError:
        raise
    except Exception as error:  # a model may be of anything, text or sound
        reason = kind_and_line(error, 160)
        remedy = "is it an encoder of single images?" if size is None else "leave out --size"
        raise CossError(
            f"{spec} does not take images of {picked.size} px ({reason}); {remedy}"
        ) from error
    encoder, own_head = parts.encoder, parts.head is not None
    arch = spec.partition("@")[0] if named else f"hf:{type(tower).__name__}"
    read = {"pooling": chosen, "mean": [*picked.mean], "std": [*picked.std], "size": picked.size}
    return Checkpoint(
        encoder,
        spec.removeprefix("hf:").replace("/", "-") if named else Path(spec).resolve().name,
        None,
        _sha256(arch if named else "", tower, parts, read, picked.geometry.stored(picked.size)),
        foreign_metadata(
            arch,
            picked.size,
            f"transformers' {type(tower).__name__}{commit and f', commit {commit}'}",
            dataset="imagenet" if own_head and _imagenet(labels) else None,
            reading=read | ({"commit": commit} if commit else {}),
        ),
        parts.head,
        parts.classes if own_head else None,
        f"{describe_input(picked, source)}; features: {POOLINGS[chosen]}"
        + (f"; {config.model_type} at commit {commit[:12]}" if commit else ""),
    )


def _stated(folder: Path, spec: str) -> dict[str, Any]:
    """What `config.json` of a folder says.

    Raises:
        CossError: it is of another library, or needs code of its own.
    """
    try:
        found = parse_json(read_text(folder / CONFIG, MOST_CONFIG))
        kind = found["model_type"]
    except (OSError, ValueError, RecursionError, TypeError, KeyError) as error:
        raise CossError(
            f"{spec} is no model of transformers: its {CONFIG} states no model_type; a model of "
            "timm is timm:hf-hub:ORG/NAME, one of open_clip open_clip:hf-hub:ORG/NAME"
        ) from error
    if kind == "timm_wrapper":
        raise CossError(
            f"{spec} is a model of timm in transformers' wrapping; pass timm:hf-hub:ORG/NAME, or a "
            "folder that timm's save_for_hf left"
        )
    if kind not in _known():
        if "auto_map" in found:
            raise CossError(
                f"{spec} needs code of its own ({json.dumps(found['auto_map'])[:80]}), which is "
                "never run; load it yourself and measure it with robustbench_coss.evaluate"
            )
        raise CossError(
            f"the installed transformers does not know the model type {kind!r} of {spec}; update "
            "it: pip install --upgrade transformers"
        )
    if isinstance(quantised := found.get("quantization_config"), dict):
        how = str(quantised.get("quant_method", "unknown"))[:40]
        raise CossError(
            f"{spec} is quantised ({how}), and what it computes depends on kernels that are not "
            "used here; pass the model it was made of"
        )
    return dict(found)


def _known() -> Any:
    try:
        from transformers import CONFIG_MAPPING
    except ImportError as error:
        raise CossError(f"a folder of transformers {NEEDS}") from error
    return CONFIG_MAPPING


def _load(folder: Path, stated: dict[str, Any]) -> tuple[Any, dict[int, str]]:
    """A model in float32 and the names of its classes; refuses one whose weights are not whole."""
    import transformers

    with_head = any(
        str(kind).endswith("ForImageClassification") for kind in stated.get("architectures") or ()
    )
    auto = transformers.AutoModelForImageClassification if with_head else transformers.AutoModel
    with _quiet():
        try:
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
            auto, config = _vision_only(transformers, auto, config)
            model, told = auto.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
                local_files_only=True,
            )
        except CossError:
            raise
        except Exception as error:  # of many kinds
            raise _refusal(folder, error) from error
    missing = told["missing_keys"]
    if of_family(str(config.model_type)) != "own":
        # What transformers adds on top of a class token is not used.
        missing = [key for key in missing if not re.search(r"(^|\.)pooler\.dense\.", key)]
    if missing:
        raise CossError(
            f"{folder} lacks {len(missing)} weights of {type(model).__name__} "
            f"({few(sorted(missing))}); save the whole model with save_pretrained"
        )
    return model.eval(), dict(getattr(config, "id2label", None) or {}) if with_head else {}


def _vision_only(transformers: Any, auto: Any, config: Any) -> tuple[Any, Any]:
    """The class of the vision tower, where a model has a text tower too."""
    if auto is transformers.AutoModel and hasattr(config, "vision_config"):
        kind = type(config).__name__.removesuffix("Config") + "VisionModel"
        tower = getattr(transformers, kind, None)
        if tower is None:
            raise CossError(
                f"no vision tower of {config.model_type} is known ({kind}); load it yourself and "
                "measure it with robustbench_coss.evaluate"
            )
        return tower, config.vision_config
    if auto is transformers.AutoModel and type(config) not in transformers.MODEL_MAPPING:
        named = str((getattr(config, "architectures", None) or [""])[0])
        return getattr(transformers, named, auto), config  # a tower that was saved by itself
    return auto, config


def _refusal(folder: Path, error: Exception) -> CossError:
    reason = kind_and_line(error, 160)
    files = list(folder.glob("*.safetensors")) + list(folder.glob("pytorch_model*.bin"))
    if not files:
        others = [
            kind for kind in ("flax_model.msgpack", "tf_model.h5") if (folder / kind).exists()
        ]
        remedy = "download or save the model again"
        if others:
            remedy = (
                f"what it holds is of another library ({others[0]}): save the model with PyTorch"
            )
        return CossError(f"{folder} holds no weights (model.safetensors); {remedy}")
    return CossError(
        f"the weights in {folder} cannot be read ({reason}); only "
        "safetensors and plain tensors are, so save the model again with save_pretrained"
    )


def _tower(model: Any) -> Any:
    """What of a model makes features; itself unless it is a classifier."""
    names = (model.base_model_prefix, "vision_model") if hasattr(model, "classifier") else ()
    inner = [getattr(model, name) for name in names if name and hasattr(model, name)]
    tower = inner[0] if inner else model
    tower.takes_sizes = _takes_sizes(tower)
    # A classifier takes it by name or hands on what else it is given.
    model.takes_sizes = tower.takes_sizes and _takes_sizes(model, by_any=True)
    if tower.config.model_type == "vit_mae":
        tower.config.mask_ratio = 0.0
    return tower


def _takes_sizes(model: Any, by_any: bool = False) -> bool:
    """Whether positions can be interpolated; `by_any`: it may be among further options."""
    known = inspect.signature(model.forward).parameters
    return "interpolate_pos_encoding" in known or (
        by_any and any(p.kind is p.VAR_KEYWORD for p in known.values())
    )


def _cut(model: Any, tower: Any, spec: Any, pooling: str | None) -> tuple[Cut, str]:
    """The parts of a model, and what its features are; with its classifier where it has one."""
    family = of_family(str(tower.config.model_type))
    if model is tower:
        chosen = pooling or family
        return cut_model(tower, spec, chosen), chosen
    head = [part for part in model.classifier.modules() if isinstance(part, nn.Linear)][-1]
    image = torch.rand(2, 3, spec.size, spec.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x = Encoder(spec, 1, 1).normalise(image)
        wanted = Whole(model, "logits", 0)(x)
    for chosen in dict.fromkeys([pooling] if pooling else [family, *POOLINGS]):
        with contextlib.suppress(Exception), torch.no_grad():  # of another width, or without it
            parts = cut_model(tower, spec, chosen)
            found = head(parts.encoder(image))
            if bool((found - wanted).abs().max() <= 1e-4 * wanted.abs().max()):
                return Cut(parts.encoder, head, head.out_features), chosen
    chosen = pooling or family  # a classifier of another kind: only the features are known
    return cut_model(tower, spec, chosen), chosen


def _imagenet(labels: dict[int, str]) -> bool:
    return len(labels) == 1000 and str(labels.get(0, "")).startswith(FIRST_CLASS)


def _sha256(arch: str, tower: Any, parts: Cut, read: dict[str, Any], geometry: Any) -> str:
    state = [state_sha256(tower)] + ([] if parts.head is None else [state_sha256(parts.head)])
    return sha256_of({"arch": arch, "state": state, "read": read, "geometry": geometry})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's bars and advice out of the terminal."""
    from transformers.utils import logging as theirs

    before, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        with quiet(logging.WARNING), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        theirs.set_verbosity(before)
        if bars:
            theirs.enable_progress_bar()
