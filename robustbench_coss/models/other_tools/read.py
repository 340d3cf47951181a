"""Encoders out of checkpoint files that other self-supervised tools wrote: what a file holds.

Reading executes nothing. What no weight shows of a network (stem, heads, pooling, normalisation) is
what the user says, else what the file or the tool that wrote it tells, else an assumption that is
named with the option that sets it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustbench_coss.errors import CossError
from robustbench_coss.models.other_tools import transformers as nets
from robustbench_coss.models.other_tools.asked import Asked
from robustbench_coss.models.other_tools.find import Found, find, some
from robustbench_coss.models.other_tools.foreign import Foreign, contradictions
from robustbench_coss.models.other_tools.format import (
    CLIP,
    HALF,
    IMAGENET,
    Colours,
    sixty_four,
    twelve,
)
from robustbench_coss.models.other_tools.named import Named, has_names_of, named, named_by
from robustbench_coss.models.other_tools.names import parts_of_encoder, translated
from robustbench_coss.models.other_tools.opening import ADAPTER, read_file, told_by_names
from robustbench_coss.models.other_tools.resnets import (
    Stem,
    clip_shape,
    shape_of,
    stem_of,
    usual_stem,
)
from robustbench_coss.models.other_tools.shapes import features_of, other_name, shaped
from robustbench_coss.models.other_tools.told import eps_of, mmengine, three, untouched
from robustbench_coss.models.other_tools.tree import State, Tree, zero_class_position
from robustbench_coss.models.tensors import ordinary

SIZE, CIFAR_SIZE = 224, 32


def read_foreign(path: Path, asked: Asked | None = None) -> Foreign:
    """The encoder in a checkpoint file of another tool.

    Args:
        path: a file of `torch.save` or safetensors.
        asked: what is known of it.

    Raises:
        CossError: no such file, a truncated one, one that is not of the format or of none, an
            architecture that cannot be inferred, or an option that it has no use for.
    """
    asked = asked or Asked()
    content, export = read_file(path)
    with contradictions(path):
        return _Reader(path, asked, Tree(content, export)).read()


@dataclass
class _Reader:
    path: Path
    asked: Asked
    tree: Tree
    assumed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def read(self) -> Foreign:
        found = find(self.path, self.asked, self.tree)
        if any(map(ADAPTER.match, found.state)):
            raise CossError(f"{self.path}: {told_by_names(found.state)}")
        self._say_which(found)
        raw = translated(found.state)
        arch, known = self.asked.arch, shaped(raw)
        if arch is not None and not (known and arch.endswith(known[1])):
            raw = found.state if has_names_of(arch, found.state) else raw
        state = ordinary(parts_of_encoder(raw), self.path)
        network = self._named(found, state)
        kind, arch = self._kind(found, state, network)
        state, classes, embedding = self._classifier(found, state)
        told: dict[str, Any] = {}
        vit = kind == "vit" or (network is not None and network.is_vit)
        if kind == "resnet" or (network is not None and self.asked.stem):
            told["stem"] = self._stem(found, state)
        if vit:
            told["pooling"] = self._pooling(found, state, network)
            usual = self.asked.pooling is None and told["pooling"] == found.form.pooling
            told["token_by"] = found.form.by if usual else ""
            told["heads"] = self._heads(found, state, network)
        self._refuse_unused(kind == "resnet" or network is not None, vit)
        mean, std = self._colours(found, state, network)
        quick = found.form.name == "clip" and self._is_openai()
        plain = vit and network is None and "attn_pool.latent" not in state
        if found.form.name == "clip" and not quick and plain:
            self.assumed.append("the exact GELU (--arch timm:…_clip_quickgelu_224 for OpenAI's)")
        said = self.tree.said("method")
        return Foreign(
            found.form.name,
            kind,
            arch,
            state,
            classes,
            found.encoder,
            found.form.method or said or None,
            self._size(kind, state, raw, told.get("stem")),
            str(found.place),
            mean,
            std,
            # The children of lightly's own ResNet in a Sequential: its ReLU after the stem is a
            # function call (lightly/models/resnet.py), so they were trained without it.
            bare_stem="2.0.conv1.weight" in found.state,
            eps=eps_of(found.state, state),
            quick=quick,
            embedding=embedding,
            after=ordinary(found.after, self.path),
            probe=found.probe,
            assumed=tuple(self.assumed),
            notes=tuple(self.notes),
            **told,
        )

    # ---- which network ----

    def _say_which(self, found: Found) -> None:
        """Of several networks in a file of no tool, the one that is read."""
        others = [str(place) for place in self.tree.networks if place != found.place]
        chosen = self.asked.weights is not None or found.encoder == "average"
        if found.form.name == "torchvision" and others and not chosen:
            self.assumed.append(f"the network at {found.place}, not {others[0]} (--weights)")

    def _named(self, found: Found, state: State) -> Named | None:
        arch, shape = self.asked.arch, shape_of(state)
        if shape is not None and arch in (shape[0], f"torchvision:{shape[0]}"):
            return None  # of whatever stem
        if arch is not None:
            return named(arch)
        if (own := self.tree.export.get("arch")) and str(own).startswith("timm:"):
            return named(str(own))
        if shaped(state) is None:
            return named_by(self.tree, state)
        return None

    def _kind(self, found: Found, state: State, network: Named | None) -> tuple[str, str]:
        if network is not None:
            return "named", network.arch
        if (known := shaped(state)) is not None and "head.probe" not in state:
            return known
        if self.tree.export:
            remedy = "it is an export of a run of this tool: measure the run itself"
        elif "head.probe" in state:
            remedy = "measure the folder or the name that transformers knows it by, hf:ORG/NAME"
        else:
            remedy = told_by_names(state) or (
                "pass --arch NAME (torchvision:NAME, timm:NAME or a name of `coss-bench list`), or "
                "measure the module itself from Python: robustbench_coss.evaluate(module, …)"
            )
        raise CossError(
            f"{self.path} ({found.form.name}) does not settle its architecture; {remedy}; "
            f"it has {some(state)}"
        )

    def _classifier(self, found: Found, state: State) -> tuple[State, int | None, bool]:
        """The state with its classifier, number of classes, and whether that is an embedding."""
        if "head.weight" in state and found.form.name == "clip":
            return state, len(state["head.weight"]), True
        if clip_shape(state) is not None:
            return state, len(state["head.proj.weight"]), True
        names = found.head.split("|") if found.head else []
        state = dict(state)
        ours = "fc" if "layer1.0.conv1.weight" in state else "head"
        for name in names:
            beside = name.removeprefix("/")
            for part in ("weight", "bias"):
                value = self.tree.at(*found.place.root).get(f"{beside}.{part}")
                if name != beside and value is not None:
                    state[f"{ours}.{part}"] = value
        features = features_of(state)
        if found.form.name == "torchvision" and (other := other_name(state, features)):
            self.notes.append(f"with its classifier {other}")
            start = len(other)
            state = {
                ours + k[start:] if k.startswith(f"{other}.") else k: v for k, v in state.items()
            }
        for name in ("fc", "head", "head.fc"):
            weight = state.get(f"{name}.weight")
            if not names or weight is None or weight.dim() != 2 or features is None:
                continue
            if weight.shape[1] != features:
                return state, None, False
            if untouched(weight, state.get(f"{name}.bias")):
                self.notes.append(f"{name} has its initial values and is no classifier")
                return {k: v for k, v in state.items() if not k.startswith(f"{name}.")}, None, False
            if (
                "/classifier" in names
                and name in ("fc", "head")
                and f"{name}.weight" not in found.state
            ):
                self.notes.append("with the classifier beside it (--transfer for a probe instead)")
            return state, len(weight), False
        return state, None, False

    # ---- what no weight shows ----

    def _stem(self, found: Found, state: State) -> Stem:
        kernel = state["conv1.weight"].shape[-1] if "conv1.weight" in state else 7
        usual, form = usual_stem(kernel), found.form
        if kernel == 3 and form.small:
            usual = stem_of(form.small, usual)
        children = [m[1] for k in found.state if (m := re.match(r"(\d+)\.0\.conv1\.weight", k))]
        first = min(map(int, children), default=0)
        if first == 3:
            usual = Stem(usual.stride, usual.padding, pool=False)  # no child is left for it
        if self.asked.stem is not None:
            return stem_of(self.asked.stem, usual)
        told = (
            (kernel == 7 and form.stems)
            or (kernel == 3 and form.small)
            or first == 2  # lightly's own
            or bool(self.tree.export)
            or (kernel == 7 and str(self.asked.arch).startswith("torchvision:"))
            or (kernel == 7 and self.tree.said("arch", "model").startswith("resnet"))
        )
        if not told:
            self.assumed.append(f"stem {usual} (--stem)")
        return usual

    def _pooling(self, found: Found, state: State, network: Named | None) -> str:
        asked, has_class = self.asked.pooling, "cls_token" in state
        if "attn_pool.latent" in state:
            if asked is not None:
                raise CossError(
                    f"{self.path} pools its tokens by attention; leave out --pooling {asked}"
                )
            return "attention"
        if "fc_norm.weight" in state or not has_class:
            if asked not in (None, "mean"):
                reason = "norms the mean of its patches" if has_class else "has no class token"
                raise CossError(f"{self.path} {reason}; leave out --pooling {asked}")
            return "mean"
        if asked is not None:
            return asked
        if network is not None:
            return "class"
        if not found.form.pooling:
            self.assumed.append("its class token (--pooling)")
        return "class"

    def _heads(self, found: Found, state: State, network: Named | None) -> int | None:
        if self.asked.heads is not None:
            return self.asked.heads
        if network is not None:
            return network.heads
        dim, fixed = len(state["patch_embed.proj.weight"]), zero_class_position(state)
        if found.form.heads is not None:
            return found.form.heads(dim, fixed)
        usual = sixty_four(dim)
        unclear = fixed and twelve(dim) != usual and found.form.name == "torchvision"
        if unclear and not self.tree.export:
            raise CossError(
                f"{self.path} has fixed position embeddings: MoCo v3's ViT of {dim} channels has "
                f"{twelve(dim)} attention heads, others have {usual}, and no weight shows them; "
                f"pass --heads {twelve(dim)} or --heads {usual}"
            )
        if not self.tree.export:
            self.assumed.append(f"{usual} attention heads (--heads)")
        return usual

    def _colours(self, found: Found, state: State, network: Named | None) -> Colours:
        if self.asked.mean is not None and self.asked.std is not None:
            return self.asked.mean, self.asked.std
        told = (
            three(self.tree.export.get("mean"), self.tree.export.get("std"))
            or found.form.colours(self.tree)
            or three(self.tree.settings.get("mean"), self.tree.settings.get("std"))
            or mmengine(self.tree)
        )
        if told is not None:
            return told
        if network is not None:
            return network.colours
        guess, whose = IMAGENET, "ImageNet's"
        if "attn_pool.latent" in state:
            guess, whose = HALF, "SigLIP's 0.5 as"
        elif "norm_pre.weight" in state or found.form.name == "clip":
            guess, whose = CLIP, "CLIP's"
        self.assumed.append(f"{whose} mean and std (--mean, --std)")
        return guess

    def _size(self, kind: str, state: State, raw: State, stem: Stem | None) -> int:
        stated = self.tree.export.get("size")
        if isinstance(stated, int) and stated > 0:
            return stated
        if nets.is_vit(state):
            return int((nets.side_of(state) or 0) * state["patch_embed.proj.weight"].shape[-1])
        if (clip := clip_shape(state)) is not None:
            return clip[2]
        if kind == "swin":
            _, _, window, patch, _ = nets.swin_shape(state)
            mask = raw.get("layers.0.blocks.1.attn_mask")
            return nets.swin_size(mask, window, patch) or (SIZE if window == 7 else CIFAR_SIZE)
        small = kind == "wide" or (stem is not None and stem.stride == 1 and not stem.pool)
        return CIFAR_SIZE if small else SIZE

    def _is_openai(self) -> bool:
        """Whether a CLIP is OpenAI's own file; open_clip names a model `…-quickgelu`."""
        own = all(key in self.tree.at() for key in ("input_resolution", "context_length"))
        return own or "quickgelu" in self.tree.said("name", "model")

    def _refuse_unused(self, resnet: bool, vit: bool) -> None:
        if self.asked.stem is not None and not resnet:
            raise CossError(f"{self.path} is no ResNet; leave out --stem")
        if not vit:
            for option in ("heads", "pooling"):
                if getattr(self.asked, option) is not None:
                    raise CossError(f"{self.path} is no plain ViT; leave out --{option}")
