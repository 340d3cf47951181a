"""Accuracy when maps inside the encoder are partly hidden or disturbed.

By default the map is that of the local representations, between `local` and `pool`; it may be
any stage before. The external control hides the same parts of the input image instead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustbench_coss import seeds
from robustbench_coss.encoders.base import Encoder
from robustbench_coss.errors import CossError, did_you_mean
from robustbench_coss.evaluations.answers import answered
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject, Suite
from robustbench_coss.evaluations.suites.masks import block_mask, random_mask
from robustbench_coss.evaluations.suites.options import levels
from robustbench_coss.records.about import SuiteAbout
from robustbench_coss.records.record import Axis, Metric

RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
SIGMAS = (0.25, 0.5, 1.0, 2.0, 4.0)
KINDS = ("random-zero", "random-drop", "block-zero", "block-drop")
LOCAL = "local"  # the last stage of every encoder, whatever it is called there
GREY = 0.5
CHUNK = 64

# Group -> metric name, label and whether the leaderboard shows it.
METRICS = {
    "random-zero": ("occlusion_internal", "Internal occlusion top-1", True),
    "noise": ("internal_noise", "Internal noise top-1", True),
    "random-drop": ("occlusion_random_drop", "Random drop top-1", False),
    "block-zero": ("occlusion_block_zero", "Block zero top-1", False),
    "block-drop": ("occlusion_block_drop", "Block drop top-1", False),
    "input-patches": ("occlusion_input_patches", "Input patches top-1", False),
}


@dataclass(frozen=True)
class Map:
    """What is known about the map after a stage: (h, w), and s.d. of the channels [1, C, 1, 1]."""

    shape: tuple[int, int]
    std: Tensor


class Occlusion(Suite):
    """Masks and noise on maps inside the encoder, grey patches on the input.

    Column: `correct` (top-1). The level of a mask is its ratio, of noise its sigma in units of
    each channel's standard deviation over the reference images.

    Args:
        stages: names of `Encoder.stages()` after which to intervene, one or several; "local" is
            the last. Groups of an earlier stage carry its name ("stage2 random-zero"). There,
            masked positions are set to zero and the remaining stages run on what is left.
            Leaving positions out is possible only in the pool, so after the last stage.
        ratios: shares of the positions to mask, above 0 and below 1; 0 is the clean condition.
        sigmas: of the noise, above 0.

    Raises:
        CossError: an option is out of range.
    """

    name = "occlusion"
    version = 2
    local = True
    axis = Axis("masked share (noise: sigma in channel s.d.)")
    about = SuiteAbout(
        title="Occlusion",
        does="Local representations are masked, or noise is put on them, before they are pooled. "
        "The control hides the same places of the image instead.",
        order=30,
        panels={
            "random-zero": "Random, zeroed",
            "random-drop": "Random, dropped",
            "block-zero": "Block, zeroed",
            "block-drop": "Block, dropped",
            "noise": "Feature noise",
            "input-patches": "Input patches (control)",
        },
        x_label="masked share",
        x_labels={"noise": "noise σ (channel s.d.)"},
        captions={
            "": "Top-1 against the masked share or the strength of the noise, a panel per kind."
        },
    )

    def __init__(
        self,
        stages: str | Sequence[str] = LOCAL,
        ratios: float | Sequence[float] = RATIOS,
        sigmas: float | Sequence[float] = SIGMAS,
    ) -> None:
        asked = [stages] if isinstance(stages, str) else stages
        if (
            not isinstance(asked, (list, tuple))
            or not asked
            or not all(isinstance(stage, str) and stage for stage in asked)
        ):
            raise CossError(
                "occlusion.stages must be names of stages, such as local or [stage1, stage2]; "
                f"got {stages!r}"
            )
        self.stages = tuple(dict.fromkeys(asked))
        self.ratios = levels("occlusion.ratios", ratios, below=1)
        self.sigmas = levels("occlusion.sigmas", sigmas)
        self._maps: dict[str, Map] = {}

    def config(self) -> dict[str, Any]:
        return {
            "stages": list(self.stages),
            "ratios": list(self.ratios),
            "sigmas": list(self.sigmas),
            "input_patches": "those of the masked positions",
            "input_fill": GREY,
        }

    def conditions(self, subject: Subject) -> list[Condition]:
        """Clean, then for each stage all masks, noises and controls.

        Raises:
            CossError: the subject's encoder has no stage of that name.
        """
        last = last_stage(subject.encoder)
        found = [Condition("clean", "", 0.0)]
        for stage in find_stages(subject.encoder, self.stages):
            prefix = "" if stage == last else f"{stage} "
            kinds = [kind for kind in KINDS if stage == last or kind.endswith("-zero")]
            by_group = dict.fromkeys(kinds, self.ratios)
            by_group |= {"noise": self.sigmas, "input-patches": self.ratios}
            found += [
                Condition(
                    f"{prefix}{kind}@{level:g}",
                    f"{prefix}{kind}",
                    level,
                    stage="" if stage == last else stage,
                    kind=kind,
                )
                for kind, values in by_group.items()
                for level in values
            ]
        return found

    @torch.inference_mode()
    def prepare(self, subject: Subject, reference: Batch, image_size: int) -> None:
        """Measure each channel's standard deviation over the reference images and positions.

        Raises:
            CossError: the encoder has a single position after one of the stages, or no such stage.
        """
        encoder = subject.encoder
        wanted = find_stages(encoder, self.stages)
        maps = encoder.maps(reference.images[:1])
        shapes = {stage: (maps[stage].shape[-2], maps[stage].shape[-1]) for stage in wanted}
        for stage, (height, width) in shapes.items():
            if height * width < 2:
                where = "" if stage == last_stage(encoder) else f" after {stage}"
                raise CossError(
                    f"occlusion needs several local representations and this model has one at "
                    f"{image_size} px{where}; use larger images, an encoder with a smaller stride "
                    "or an earlier stage (occlusion.stages)"
                )
        deviations = channel_std(encoder, reference.images, wanted)
        self._maps = {stage: Map(shapes[stage], deviations[stage]) for stage in wanted}

    def shares(self, condition: Condition) -> bool:
        """Masks and noise need the map of the image as it is, which is computed once for all."""
        return condition.kind != "input-patches"

    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        return next(self.measure_together(subject, batch, [condition], seed))

    @torch.inference_mode()
    def measure_together(
        self, subject: Subject, batch: Batch, conditions: Sequence[Condition], seed: int
    ) -> Iterator[dict[str, Tensor]]:
        encoder = subject.encoder
        wanted = {c.stage or last_stage(encoder) for c in conditions if self.shares(c)}
        maps = maps_after(encoder, batch.images, wanted)
        for condition in conditions:
            kind = condition.kind
            stage, names = condition.stage or last_stage(encoder), (seed, self.name, condition.name)
            keep = None
            if kind == "input-patches":
                # The very positions that random-zero masks: each of the two is the other's match.
                names = (seed, self.name, condition.name.replace(kind, "random-zero"))
                shape = self._map(stage).shape
                mask = mask_for("random-zero", condition.level, batch.index, shape, *names)
                x = encoder.local(paint_grey(batch.images, mask))
            else:
                x = maps[stage]
                if kind == "noise":
                    scale = condition.level * self._map(stage).std
                    x = x + scale * normal(x, batch.index, *names)
                elif kind in KINDS:
                    height, width = x.shape[-2:]
                    mask = mask_for(kind, condition.level, batch.index, (height, width), *names)
                    mask = mask.to(x.device)
                    if kind.endswith("-zero"):
                        x = x.masked_fill(mask[:, None], 0)
                    else:
                        keep = ~mask
                x = run_on(encoder, stage, x)
            logits = subject.classify(encoder.pool(x, keep=keep))
            yield answered(logits, batch.labels)

    def _map(self, stage: str) -> Map:
        if stage not in self._maps:
            raise RuntimeError("prepare() must be called before measure()")
        return self._maps[stage]

    def metrics(self, conditions: Sequence[Condition]) -> list[Metric]:
        found = []
        for stage in dict.fromkeys(c.stage for c in conditions if c.group):
            for kind, (name, label, headline) in METRICS.items():
                members = tuple(c.name for c in conditions if (c.stage, c.kind) == (stage, kind))
                if not members:
                    continue
                if stage:
                    name, label = f"{name}_{stage}", f"{label}, {stage}"
                found.append(Metric(name, label, "correct", members, headline=headline))
        return found


def last_stage(encoder: Encoder) -> str:
    """Name of the stage that gives the local representations."""
    return list(encoder.stages())[-1]


def maps_after(encoder: Encoder, images: Tensor, stages: Collection[str]) -> dict[str, Tensor]:
    """The maps after some stages; none is what a later stage has changed in place."""
    found: dict[str, Tensor] = {}
    x = images
    for name, step in encoder.stages().items() if stages else ():
        x = step(x)
        if name in stages:
            found[name] = x
            x = x.clone() if len(found) < len(stages) else x
        if len(found) == len(stages):
            break
    return found


def run_on(encoder: Encoder, stage: str, x: Tensor) -> Tensor:
    """Local representations from a map after a stage."""
    steps = list(encoder.stages().items())
    behind = [name for name, _ in steps].index(stage) + 1
    for _, step in steps[behind:]:
        x = step(x)
    return x


def find_stages(encoder: Encoder, asked: Sequence[str]) -> list[str]:
    """The encoder's own names of stages, "local" being another name of its last, each once.

    Raises:
        CossError: the encoder has no such stage; the nearest names are given.
    """
    known = list(encoder.stages())
    found = [known[-1] if stage == LOCAL else stage for stage in asked]
    for stage in found:
        if stage in known:
            continue
        if len(known) == 1:
            raise CossError(
                f"this encoder has no stage {stage!r}: it has no maps before its local "
                f"representations; leave occlusion.stages out or set it to {LOCAL}"
            )
        hint = did_you_mean(stage, known, f"it has {', '.join(known)}")
        raise CossError(f"this encoder has no stage {stage!r}; {hint}")
    return list(dict.fromkeys(found))


def masked_count(ratio: float, positions: int, *, leave_one: bool) -> int:
    """Positions that a ratio in [0, 1] masks: rounded half up, at least one left if asked."""
    count = int(ratio * positions + 0.5)
    return min(count, positions - 1) if leave_one else count


def mask_for(
    kind: str, ratio: float, index: Sequence[int], shape: tuple[int, int], *names: seeds.Name
) -> Tensor:
    """[B, h, w] bool on the CPU: the positions that a group such as "block-drop" masks."""
    form, fate = kind.split("-")
    count = masked_count(ratio, shape[0] * shape[1], leave_one=fate == "drop")
    draw = random_mask if form == "random" else block_mask
    return draw(index, shape, count, *names)


def normal(like: Tensor, index: Sequence[int], *names: seeds.Name) -> Tensor:
    """Standard normal draws of the shape and device of `like`, [B, …], keyed by sample."""
    rows = [torch.randn(like.shape[1:], generator=seeds.generator(*names, int(i))) for i in index]
    return torch.stack(rows).to(like)


def paint_grey(images: Tensor, mask: Tensor) -> Tensor:
    """Images with the patches of masked positions painted grey (0.5).

    The image is cut into h × w patches, one per position: pixel row p belongs to row ⌊p·h / S⌋ of
    the mask. Where h does not divide S, patches differ by a pixel in height; widths likewise.

    Args:
        images: [B, 3, S, S] in [0, 1].
        mask: [B, h, w] bool.
    """
    size, (height, width) = images.shape[-1], mask.shape[1:]
    pixel = torch.arange(size)
    grey = mask[:, pixel * height // size][:, :, pixel * width // size].to(images.device)
    return images.masked_fill(grey[:, None], GREY)


def channel_std(encoder: Encoder, images: Tensor, stages: Sequence[str]) -> dict[str, Tensor]:
    """[1, C, 1, 1] for each stage: s.d. of each channel of its map over images and positions.

    Chunks are joined by the law of total variance: mean of variances + variance of means.
    """
    chunks = torch.split(images, CHUNK)
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {stage: [] for stage in stages}
    for chunk in chunks:
        for name, x in maps_after(encoder, chunk, stages).items():
            parts[name].append(torch.var_mean(x, dim=(0, 2, 3), correction=0))
    weight = torch.tensor([len(chunk) / len(images) for chunk in chunks]).to(images.device)[:, None]
    found = {}
    for stage, part in parts.items():
        variances, means = (torch.stack(column) for column in zip(*part, strict=True))
        mean = (weight * means).sum(0)
        variance = (weight * (variances + (means - mean).square())).sum(0)
        found[stage] = variance.sqrt().view(1, -1, 1, 1)
    return found
