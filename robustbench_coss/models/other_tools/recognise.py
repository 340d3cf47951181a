"""How files of other tools are told from each other, and what they say of their normalisation."""

from __future__ import annotations

from robustbench_coss.models.other_tools.format import CIFAR, CLIP, HALF, IMAGENET, Colours
from robustbench_coss.models.other_tools.tree import Tree, zero_class_position

LIGHTNING = ("state_dict",)


def is_lightning(tree: Tree) -> bool:
    return "pytorch-lightning_version" in tree


def is_dino(tree: Tree) -> bool:
    return tree.has(("teacher",), "backbone.") and "student" in tree


def is_dinov2(tree: Tree) -> bool:
    if tree.has(("teacher",), "backbone.", "dino_head."):
        return True
    if tree.has(("model",), "teacher.backbone."):
        return True
    return tree.has((), "mask_token", "blocks.") and any("ls1.gamma" in k for k in tree.at())


def is_swav(tree: Tree) -> bool:
    return any(tree.has(root, "prototypes.", "projection_head.") for root in ((), ("state_dict",)))


def is_mocov3(tree: Tree) -> bool:
    if tree.has(LIGHTNING, "base_encoder."):
        return True
    return "arch" in tree and zero_class_position(tree.at("state_dict"))


def is_mae(tree: Tree) -> bool:
    if tree.has(("model",), "decoder_blocks.") or tree.has((), "decoder_blocks."):
        return True
    model = tree.at("model")
    return "fc_norm.weight" in model or "head.0.running_mean" in model or zero_class_position(model)


def is_mocov2(tree: Tree) -> bool:
    return tree.has(LIGHTNING, "encoder_q.", "encoder_k.", "queue") and not is_lightning(tree)


def is_simsiam(tree: Tree) -> bool:
    return "arch" in tree and tree.has(LIGHTNING, "encoder.", "predictor.")


def is_vicreg(tree: Tree) -> bool:
    return tree.has(("model",), "backbone.", "projector.") and not is_barlow(tree)


def is_barlow(tree: Tree) -> bool:
    return tree.has(("model",), "backbone.", "projector.", "bn.")


def is_simclr(tree: Tree) -> bool:
    return "arch" in tree and tree.has(LIGHTNING, "backbone.fc.0.", "backbone.fc.2.")


def is_solo(tree: Tree) -> bool:
    """By its own settings, the names of its parameter groups, or its momentum network."""
    if not is_lightning(tree):
        return False
    if tree.said("method") and ("backbone" in tree.settings or "encoder" in tree.settings):
        return True
    for optimiser in tree.content.get("optimizer_states") or ():
        groups = optimiser.get("param_groups") if isinstance(optimiser, dict) else None
        names = [g.get("name") for g in groups or () if isinstance(g, dict)]
        if {"backbone", "classifier"} <= set(map(str, names)):
            return True
    return tree.has(LIGHTNING, "momentum_backbone.", "classifier.")


def solo_colours(tree: Tree) -> Colours | None:
    """CIFAR's where the file names it, or its stem and the classes of its online probe do."""
    known = CIFAR["solo-learn"]
    named = tree.said("data.dataset", "dataset")
    if named:
        return known.get(named, IMAGENET)
    state = tree.at(*LIGHTNING)
    probe = state.get("classifier.weight")
    stem = state.get("backbone.conv1.weight", state.get("encoder.conv1.weight"))
    if stem is not None and stem.shape[-1] == 3 and probe is not None:
        return known.get(f"cifar{len(probe)}")
    return IMAGENET


def supcon_colours(tree: Tree) -> Colours | None:
    return CIFAR["supcon"].get(tree.said("dataset"))


def clip_colours(tree: Tree) -> Colours | None:
    """SigLIP's towers are timm's with pooling by attention; other towers of timm are of anyone."""
    keys = [key for state in tree.states.values() for key in state]
    if any(".attn_pool." in key for key in keys):
        return HALF
    return None if any(key.startswith(("trunk.", "visual.trunk.")) for key in keys) else CLIP


def any_colours(tree: Tree) -> Colours | None:
    return None


def is_visual(tree: Tree) -> bool:
    return any(
        place.prefix.endswith(("visual.", "visual.trunk.")) or place.prefix == "trunk."
        for place in tree.networks
    ) or any(
        name in state
        for state in tree.states.values()
        for name in ("transformer.resblocks.0.ln_1.weight", "attnpool.c_proj.weight")
    )


def anything(tree: Tree) -> bool:
    return True
