"""How other tools save their checkpoints: one table, `TABLE`, a row for each.

A format is told from the keys of a file. Nothing here opens a file or builds a network. The table
in docs/models.md is made of this one (`markdown`).
"""

from __future__ import annotations

from robustbench_coss.models.other_tools import recognise as told
from robustbench_coss.models.other_tools.format import (
    AS_IS,
    SWAV,
    Format,
    Source,
    twelve,
    twelve_if_fixed,
)
from robustbench_coss.models.other_tools.recognise import LIGHTNING
from robustbench_coss.models.other_tools.tree import Place, Root, Tree


def _roots(*names: str) -> tuple[Root, ...]:
    return tuple((name,) if name else () for name in names)


def _sources(
    roots: tuple[Root, ...], prefix: str, encoder: str = "", **more: str
) -> tuple[Source, ...]:
    return tuple(Source(root, prefix, encoder, **more) for root in roots)


AVERAGES = (
    # timm/models/_helpers.py (load_state_dict), torchvision/references/classification/train.py
    ("state_dict_ema", "state_dict"),
    ("model_ema", "model"),
    ("ema_state_dict", "state_dict"),
    ("ema", "model"),
    ("state_dict_ema", "model"),
)
"""Keys of an average of the weights, and of the weights beside it."""

TABLE = (
    Format(
        "vissl",  # vissl/models/trunks/resnext.py, feature_extractor.py (`base_model`)
        "`classy_state_dict … trunk._feature_blocks.`",
        lambda tree: "classy_state_dict" in tree,
        tuple(
            Source(("classy_state_dict", "base_model", "model", "trunk"), prefix, "online")
            for prefix in ("_feature_blocks.", "base_model._feature_blocks.")
        ),
        network="online",
    ),
    Format(
        "dinov2",  # dinov2/train/train.py (do_test), hub/backbones.py
        "published backbones, chunked or not, with registers or not, and `teacher_checkpoint.pth`",
        told.is_dinov2,
        (
            Source(("teacher",), "backbone.", "teacher"),
            Source(("model",), "teacher.backbone.", "teacher"),
            Source(("model",), "student.backbone.", "online"),
            Source((), "", "teacher"),
        ),
        network="teacher",
        method="dinov2",
        by="dinov2/models/vision_transformer.py",
    ),
    Format(
        "ibot",  # ibot/main_ibot.py (save_dict), evaluation/eval_linear.py
        "`student`, `teacher` and `ibot_loss`, ViT and Swin",
        lambda tree: (
            told.is_dino(tree)
            and ("ibot_loss" in tree or tree.has(("student",), "backbone.masked_embed"))
        ),
        (Source(("teacher",), "backbone.", "teacher"), Source(("student",), "backbone.", "online")),
        network="teacher",
        method="ibot",
        drop=("fc.", "head."),
        by="ibot/models/vision_transformer.py",
    ),
    Format(
        "dino",  # dino/main_dino.py (save_dict), utils.py; published files are plain
        "`student` and `teacher`, ViT, ResNet and Swin, and the published backbones",
        told.is_dino,
        (
            Source(("teacher",), "backbone.", "teacher"),
            Source(("student",), "backbone.", "online"),
            Source((), "", "teacher"),
        ),
        network="teacher",
        method="dino",
        drop=("fc.", "head."),
        by="dino/vision_transformer.py",
    ),
    Format(
        "mocov3",  # moco-v3/moco/builder.py (fc and head are projectors), main_lincls.py
        "pretraining (`base_encoder.`) and linear-probe files",
        told.is_mocov3,
        (
            Source(LIGHTNING, "base_encoder.", "online"),
            Source(LIGHTNING, "momentum_encoder.", "teacher"),
            Source(LIGHTNING, "", "online", head="fc|head"),
        ),
        network="online",
        classifier="of linear-probe files",
        method="mocov3",
        heads=twelve,
        by="moco-v3/main_lincls.py",
    ),
    Format(
        "mocov2",  # moco/moco/builder.py; fc is the projector
        "`encoder_q.` beside `encoder_k.` and `queue`, MoCo v1 as well",
        told.is_mocov2,
        (Source(LIGHTNING, "encoder_q.", "online"), Source(LIGHTNING, "encoder_k.", "teacher")),
        network="online",
        method="moco",
        drop=("fc.",),
    ),
    Format(
        "simsiam",  # simsiam/simsiam/builder.py; fc is the projector
        "`encoder.` beside `predictor.`",
        told.is_simsiam,
        (Source(LIGHTNING, "encoder.", ""),),
        method="simsiam",
        drop=("fc.",),
    ),
    Format(
        "swav",  # swav/main_swav.py, src/resnet50.py: padding 1 + 2 as torchvision's 3
        "`projection_head.` and `prototypes.`, also of doubled width; DeepCluster v2",
        told.is_swav,
        _sources(_roots("state_dict", ""), ""),
        method="swav",
        drop=("projection_head.", "prototypes."),
        colours=lambda tree: SWAV,
    ),
    Format(
        "barlowtwins",  # barlowtwins/main.py
        "`model` with `backbone.`, `projector.` and `bn.`; the published `resnet50.pth`",
        told.is_barlow,
        (Source(("model",), "backbone."), Source((), "")),
        method="barlowtwins",
        drop=("fc.",),
    ),
    Format(
        "vicreg",  # vicreg/main_vicreg.py: `model.pth` while it trains, `resnet50.pth` at the end
        "`model` with `backbone.` and `projector.`; the published `resnet50.pth`",
        told.is_vicreg,
        (Source(("model",), "backbone."), Source((), "")),
        method="vicreg",
        drop=("fc.",),
    ),
    Format(
        "mae",  # mae/models_mae.py, models_vit.py, main_finetune.py, main_linprobe.py
        "`model` of pretraining (the decoder is left out), fine-tuned (`fc_norm.`: its mean) and "
        "linear-probe files (`head.1.` after a batch norm)",
        told.is_mae,
        _sources(_roots("model", ""), "", head="head|head.1"),
        classifier="of fine-tuned and linear-probe files",
        method="mae",
        by="mae/main_linprobe.py, its default",
    ),
    Format(
        "ijepa",  # ijepa/src/train.py (save_checkpoint); no class token
        "`encoder`, `predictor` and `target_encoder`",
        lambda tree: all(key in tree for key in ("encoder", "predictor", "target_encoder")),
        (Source(("target_encoder",), "", "teacher"), Source(("encoder",), "", "online")),
        network="teacher",
        method="ijepa",
        pooling="mean",
        by="arXiv 2301.08243",
    ),
    Format(
        "msn",  # msn/src/msn_train.py (save_checkpoint); fc is the projector
        "`encoder`, `target_encoder` and `prototypes`",
        lambda tree: all(key in tree for key in ("encoder", "target_encoder", "prototypes")),
        (Source(("target_encoder",), "", "teacher"), Source(("encoder",), "", "online")),
        network="teacher",
        method="msn",
        drop=("fc.", "pred."),
        by="msn/src/deit.py",
    ),
    Format(
        "mmpretrain",  # mmpretrain/models/backbones/resnet.py, heads, selfsup/byol.py
        "`meta` and `state_dict` with `backbone.`, ResNets and ViTs",
        lambda tree: "meta" in tree and "state_dict" in tree,
        (
            Source(LIGHTNING, "backbone.", "online", "target_net.", "/head.fc|/head.layers.head"),
            Source(LIGHTNING, "backbone.", "online", "momentum_encoder."),
            Source(LIGHTNING, "backbone.", "", head="/head.fc|/head.layers.head"),
        ),
        network="online",
        classifier="`head.fc`, `head.layers.head`",
        colours=told.any_colours,
        heads=twelve_if_fixed,
        by="mmpretrain's `out_type`",
    ),
    Format(
        "solo-learn",  # solo-learn/solo/methods/base.py; `encoder.` in older files
        "Lightning files (`backbone.`, older `encoder.`) that name its method or its groups of "
        "parameters, or hold `momentum_backbone.`; ResNet, ViT, Swin, ConvNeXt, WRN",
        told.is_solo,
        (
            Source(LIGHTNING, "backbone.", "online", "momentum_backbone."),
            Source(LIGHTNING, "backbone.", ""),
            Source(LIGHTNING, "encoder.", "online", "momentum_encoder."),
            Source(LIGHTNING, "encoder.", ""),
            Source(LIGHTNING, "momentum_backbone.", "teacher"),
        ),
        network="online",
        classifier="none: its online probe saw augmented images",
        drop=("fc.",),
        colours=told.solo_colours,
        small="stride=1,padding=2,pool=none",  # solo/methods/base.py
        heads=twelve_if_fixed,
        by="timm's default",
    ),
    Format(
        "byol-pytorch",  # byol-pytorch/byol_pytorch/byol_pytorch.py; net.fc is what was there
        "a learner's `online_encoder.net.`",
        lambda tree: tree.has((), "online_encoder.net.", "online_predictor."),
        (
            Source((), "online_encoder.net.", "online"),
            Source((), "target_encoder.net.", "teacher"),
        ),
        network="online",
        method="byol",
        drop=("fc.", "head.", "heads."),
        colours=told.any_colours,
        stems=False,
        heads=None,
        pooling="",
    ),
    Format(
        "supcon",  # SupContrast/networks/resnet_big.py, util.py (save_model)
        "`model` with `encoder.` and `head.`, beside `opt`",
        lambda tree: tree.has(("model",), "encoder.", "head.") and "opt" in tree,
        (Source(("model",), "encoder."),),
        colours=told.supcon_colours,
        small="stride=1,padding=1,pool=none",
    ),
    Format(
        "simclr",  # SimCLR/models/resnet_simclr.py, data_aug: no normalisation
        "sthalles' port: `backbone.` with a projector in `backbone.fc.`",
        told.is_simclr,
        (Source(LIGHTNING, "backbone."),),
        method="simclr",
        drop=("fc.",),
        colours=lambda tree: AS_IS,
    ),
    Format(
        "clip",  # CLIP/clip/model.py; open_clip/transformer.py, timm_model.py, train files
        "OpenAI's and open_clip's `visual.` and `visual.trunk.`, whole, training or the tower; "
        "ViTs, ResNets and networks of timm, SigLIP's too; the feature is the image's embedding",
        told.is_visual,
        tuple(
            Source(root, prefix)
            for root in _roots("", "state_dict", "model")
            for prefix in ("visual.", "visual.trunk.", "trunk.", "")
        ),
        network="image tower",
        pooling="embedding",
        colours=told.clip_colours,
    ),
    Format(
        "lightly",  # lightly/examples/pytorch_lightning, lightly/benchmarks/imagenet
        "Lightning files with `backbone.`, `teacher_backbone.` or `student_backbone.`, of its "
        "examples and benchmarks and of one's own",
        told.anything,
        (
            Source(LIGHTNING, "teacher_backbone.", "teacher", "student_backbone."),
            Source(LIGHTNING, "backbone.", "teacher", "student_backbone."),
            Source(LIGHTNING, "backbone.", "teacher", "anchor_backbone."),
            Source(LIGHTNING, "anchor_backbone.", "online"),
            Source(LIGHTNING, "student_backbone.", "online"),
            Source(LIGHTNING, "backbone.", "online", "teacher_backbone."),
            Source(LIGHTNING, "backbone.", "online", "backbone_momentum."),
            Source(LIGHTNING, "backbone.", "", head="fc|head"),
            Source(LIGHTNING, "teacher_backbone.", "teacher"),
            Source(LIGHTNING, "backbone_momentum.", "teacher"),
        ),
        network="with a student, the teacher; else the one trained",
        classifier="of a network without a teacher and without projectors",
        colours=told.any_colours,
        stems=False,
        heads=None,
    ),
    Format(
        "torchvision",
        "state dicts in torchvision's, timm's or transformers' names, wherever they lie in a file",
        told.anything,
        (
            *(
                Source((average,), "", "average", head="fc|head")
                for average in dict.fromkeys(a for a, _ in AVERAGES)
            ),
            *_sources(_roots("", "state_dict", "model"), "", head="fc|head"),
        ),
        network="the average of the weights where there is one",
        classifier="the last linear layer, whatever its name",
        colours=told.any_colours,
        stems=False,
        heads=None,
        pooling="",
    ),
)
"""The formats in the order in which a file is tried: those told apart most surely come first."""

FORMATS: tuple[str, ...] = ("auto", *(form.name for form in TABLE))


def place_of(source: Source, tree: Tree, known: bool = True) -> Place | None:
    """Where a source is in a file, or None.

    Args:
        known: whether only networks of known kinds count.
    """
    state = tree.at(*source.root)
    if source.beside and not any(key.startswith(source.beside) for key in state):
        return None
    for inner in ("", "vit.", "model.", "trunk."):  # what tools wrap a network of timm in
        place = Place(source.root, source.prefix + inner)
        if place in tree.networks:
            return place
    there = any(key.startswith(source.prefix) for key in state)
    return Place(source.root, source.prefix) if there and not known else None


TOKENS = {"class": "class token", "mean": "mean of the patches", "": "class token, assumed"}


def markdown() -> str:
    """The table of formats for docs/models.md."""
    lines = [
        "| `--format` | what is read | which network | feature of a ViT | classifier |",
        "|---|---|---|---|---|",
    ]
    for form in TABLE:
        token = TOKENS.get(form.pooling, form.pooling) + (f" ({form.by})" if form.by else "")
        cells = [f"`{form.name}`", form.what, form.network, token, form.classifier]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
