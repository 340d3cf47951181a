"""`parts`: generated scenes of patterned discs, and a dial for how far parts tell of each other.

A scene is one light part, the key, and two dark ones, its companions, on a ground between. A part
is a disc filled with one of ten patterns: bars, posts, checks, lattice or rings, fine or coarse.
The key's pattern is the class c in 0 … 9. Each companion has, with chance r, the pattern that goes
with the class, (c + 3) mod 10, and otherwise any of the ten with equal chance. r in [0, 1] is the
level of co-occurrence.

What a part tells, in bits, follows from r. A companion's pattern given the class comes out of a
ten-ary symmetric channel: it is the one that goes with the class with chance p = r + (1 - r)/10,
and each other one with chance q = (1 - r)/10. With

    I(r) = log2(10) + p log2(p) + 9 q log2(q)

the key tells log2(10) = 3.32 bits of the class; a companion tells I(r) of the class and of the
key, and I(r²) of the other companion. At r = 0 parts tell nothing of each other and the key alone
tells the class; at r = 1 every part implies the scene. At every level the class is in the picture.

Place, rotation, scale, phase, colours and ground are drawn independently of the class. Phases are
uniform, and over phases each shade of a pattern is as frequent in all patterns: the mean picture
of every class is the same, and so is the mean histogram.

A scene is described in unit coordinates and can be rendered at any resolution. It needs no
files: this is the data set that is always there. `parts` is level 1, `parts:LEVEL` another.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_coss.datasets.base import ArraySet
from robustbench_coss.errors import CossError
from robustbench_coss.seeds import uniform

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Mirroring a picture changes no pattern into another: training crops may be flipped.
PATTERNS = ("bars", "posts", "checks", "lattice", "rings")
KINDS = tuple(f"{grain} {pattern}" for pattern in PATTERNS for grain in ("fine", "coarse"))
COUNTS = {"train": 9_000, "validation": 1_000, "test": 2_000}
COMPANIONS = 2

_RADIUS = (0.155, 0.18)  # of a part, in pictures
_PERIOD = (0.58, 1.16)  # of fine and coarse patterns, in radii of the part
_STRETCH = 0.1  # by how much of itself a period varies
_TURN = 15  # largest turn of a part, degrees
_STEEPNESS = np.float32(2.5)
_EDGE = 0.02  # by how much of a picture a part may leave it
_TRIES = 24
_CHUNK = 64  # scenes rendered together: few enough for the processor's cache


@dataclass(frozen=True)
class Scenes:
    """Descriptions of B scenes of L parts in unit coordinates (x right, y down, picture = 1).

    Attributes:
        label: [B] class.
        kind: [B, L] index into `KINDS`; the first part is the key.
        centre: [B, L, 2] x and y.
        radius: [B, L].
        angle: [B, L] by which the pattern is turned, radians, clockwise.
        stretch: [B, L] factor on the period of the pattern.
        phase: [B, L, 2] by which it is shifted along its two axes, in periods.
        colour: [B, L, 3] RGB in [0, 1].
        ground: [B, 2, 3] RGB at the two ends of the background's gradient.
        slope: [B] direction of the gradient, radians.
    """

    label: Ints
    kind: Ints
    centre: Floats
    radius: Floats
    angle: Floats
    stretch: Floats
    phase: Floats
    colour: Floats
    ground: Floats
    slope: Floats

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, chosen: slice) -> Scenes:
        return Scenes(**{name: value[chosen] for name, value in vars(self).items()})


def companion_of(label: Ints) -> Ints:
    """The pattern that goes with a class; `label` is in 0 … 9."""
    return (label + 3) % len(KINDS)


def _between(low: float, high: float, draw: Floats) -> Floats:
    return low + (high - low) * draw


def _colours(hue: Floats, lightness: Floats, saturation: Floats) -> Floats:
    """[..., 3] RGB with mean `lightness`: hue, lightness and saturation are all in [0, 1]."""
    chroma = saturation * np.minimum(lightness, 1 - lightness)
    turn = hue[..., None] - np.arange(3) / 3
    return lightness[..., None] + chroma[..., None] * np.cos(2 * np.pi * turn)


def _scatter(place: Floats, radius: Floats) -> Floats:
    """[B, L, 2] centres of parts that lie in the picture, all but `_EDGE`, and hardly overlap.

    Args:
        place: [B, T, L, 2] draws of T tries; the first of those that overlap least is taken.
        radius: [B, L].
    """
    reach = radius[:, None, :, None] - _EDGE
    centre = reach + (1 - 2 * reach) * place
    first, second = np.triu_indices(place.shape[2], 1)
    x, y = np.moveaxis(centre[:, :, first] - centre[:, :, second], 3, 0)
    wanted = (radius[:, first] + radius[:, second])[:, None]
    overlap = np.maximum(wanted - np.sqrt(x * x + y * y), 0).max(axis=2)
    return np.asarray(centre[np.arange(len(centre)), overlap.argmin(axis=1)])


def draw_scenes(role: str, index: Ints, level: float = 1.0) -> Scenes:
    """The scenes of a role with the given numbers; scene i is the same whatever else is drawn.

    Classes take turns: scene i is of class i mod 10. Scene i of two levels differs in the patterns
    of companions only.

    Args:
        role: "train", "validation" or "test".
        index: [B] scene numbers, >= 0.
        level: of co-occurrence, in [0, 1].
    """
    b, parts = len(index), 1 + COMPANIONS
    label = index % len(KINDS)

    def draw(what: str, *shape: int) -> Floats:
        count = int(np.prod(shape))
        return uniform(index, count, "parts", role, what).reshape(b, *shape)

    kind = draw("kind", COMPANIONS, 2)
    anyone = (kind[:, :, 1] * len(KINDS)).astype(np.int64)
    companions = np.where(kind[:, :, 0] < level, companion_of(label)[:, None], anyone)
    radius = _between(*_RADIUS, draw("radius", parts))

    tint = draw("colour", parts, 3)
    lightness = np.concatenate(
        [_between(0.78, 0.95, tint[:, :1, 1]), _between(0.05, 0.22, tint[:, 1:, 1])], axis=1
    )
    ground = draw("ground", 2, 3)
    between = _between(0.45, 0.55, ground[:, :, 1])
    return Scenes(
        label=label,
        kind=np.concatenate([label[:, None], companions], axis=1),
        centre=_scatter(draw("place", _TRIES, parts, 2), radius),
        radius=radius,
        angle=np.deg2rad(_between(-_TURN, _TURN, draw("angle", parts))),
        stretch=_between(1 - _STRETCH, 1 + _STRETCH, draw("stretch", parts)),
        phase=draw("phase", parts, 2),
        colour=_colours(tint[:, :, 0], lightness, _between(0.1, 0.5, tint[:, :, 2])),
        ground=_colours(ground[:, :, 0], between, _between(0, 0.15, ground[:, :, 2])),
        slope=2 * np.pi * draw("slope", 1)[:, 0],
    )


def render(scenes: Scenes, size: int) -> NDArray[np.uint8]:
    """Render scenes as [B, 3, size, size] uint8.

    The outlines of parts are antialiased: a pixel is covered by its signed distance to it, in px,
    plus one half, kept within [0, 1].
    """
    pictures = [
        _render(scenes[start : start + _CHUNK], size) for start in range(0, len(scenes), _CHUNK)
    ]
    return np.concatenate(pictures) if pictures else np.zeros((0, 3, size, size), np.uint8)


def _render(scenes: Scenes, size: int) -> NDArray[np.uint8]:
    # Trigonometry is left to few numbers, in float64, where processors differ in the last bit at
    # most. What runs over pixels is exact arithmetic by IEEE 754 (no sum over an axis, no fused
    # operation). So the pictures, and with them the fingerprint, are the same on every machine.
    middle = (np.arange(size) + 0.5) / size
    picture = _background(scenes, middle)
    coverage = _coverage(scenes, middle)
    colour = scenes.colour.astype(np.float32)
    for layer in range(coverage.shape[1]):
        picture += coverage[:, layer, None] * (colour[:, layer, :, None, None] - picture)
    return np.rint(np.clip(picture, 0, 1, out=picture) * 255).astype(np.uint8)


def _background(scenes: Scenes, middle: Floats) -> NDArray[np.float32]:
    """[B, 3, H, W] float32: a gradient between two colours."""
    start, end = scenes.ground[:, 0], scenes.ground[:, 1]
    # Runs from 0 to 1 between opposite corners of the picture at most.
    along_x = (middle - 0.5) * np.cos(scenes.slope)[:, None] / np.sqrt(2)
    along_y = (middle - 0.5) * np.sin(scenes.slope)[:, None] / np.sqrt(2) + 0.5
    share = _outer_sum(along_x, along_y)[:, None]
    change = (end - start).astype(np.float32)[:, :, None, None]
    picture: NDArray[np.float32] = share * change + start.astype(np.float32)[:, :, None, None]
    return picture


def _outer_sum(along_x: Floats, along_y: Floats) -> NDArray[np.float32]:
    """[N, W] and [N, H] to [N, H, W] float32."""
    total: NDArray[np.float32] = (
        along_x.astype(np.float32)[:, None, :] + along_y.astype(np.float32)[:, :, None]
    )
    return total


def _coverage(scenes: Scenes, middle: Floats) -> NDArray[np.float32]:
    """[B, L, H, W] float32 in [0, 1]: how much of a pixel each part covers."""
    size = len(middle)
    covered = np.empty((*scenes.kind.shape, size, size), np.float32)
    for kind in range(len(KINDS)):
        chosen = scenes.kind == kind
        radius, angle, phase = (v[chosen] for v in (scenes.radius, scenes.angle, scenes.phase))
        x, y = ((middle - c[:, None]) / radius[:, None] for c in scenes.centre[chosen].T)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        u, v = _outer_sum(cos * x, sin * y), _outer_sum(-sin * x, cos * y)
        from_middle = np.sqrt(u * u + v * v)
        period = _PERIOD[kind % 2] * scenes.stretch[chosen]
        pattern = _pattern(PATTERNS[kind // 2], period, u, v, from_middle, phase)
        edge = (from_middle - np.float32(1)) * (-size * radius).astype(np.float32)[:, None, None]
        covered[chosen] = np.clip(edge + np.float32(0.5), 0, 1) * pattern
    return covered


def _pattern(
    name: str,
    period: Floats,
    u: NDArray[np.float32],
    v: NDArray[np.float32],
    from_middle: NDArray[np.float32],
    phase: Floats,
) -> NDArray[np.float32]:
    """[N, H, W] shade of a pattern in [0, 1]; over phases, each shade is as frequent.

    Args:
        u, v, from_middle: [N, H, W] coordinates right and down, and their length.
        period: [N].
        phase: [N, 2].
    """
    if name == "lattice":  # checks, turned by half a right angle
        half_turn = np.float32(math.sqrt(0.5))
        u, v = (u + v) * half_turn, (u - v) * half_turn
    along = {"bars": v, "rings": from_middle}.get(name, u)
    first = _wave(along, period, phase[:, 0])
    if name not in ("checks", "lattice"):
        return _steep(first)
    second = _wave(v, period, phase[:, 1])
    # Checks are light where both waves are, or neither. Their distance from the middle shade is the
    # lesser of two that are uniform in [0, 1], m; 2 m - m^2 is uniform again.
    first, second = 2 * first - 1, 2 * second - 1
    lesser = np.minimum(np.abs(first), np.abs(second))
    shade = np.copysign(lesser * (2 - lesser), first * second)
    return _steep((1 + shade) / 2)


def _steep(shade: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shades in [0, 1], the middle ones drawn apart: stripes rather than waves."""
    return np.asarray(np.clip(_STEEPNESS * (shade - np.float32(0.5)) + np.float32(0.5), 0, 1))


def _wave(along: NDArray[np.float32], period: Floats, phase: Floats) -> NDArray[np.float32]:
    """[N, H, W] triangle wave between 0 and 1."""
    turns = along * (1 / period).astype(np.float32)[:, None, None]
    turns += phase.astype(np.float32)[:, None, None]
    turns -= np.floor(turns)
    return np.asarray(np.abs(2 * turns - 1))


CLASSES = tuple(
    f"light {KINDS[c]} with dark {KINDS[d]}" for c, d in enumerate(companion_of(np.arange(10)))
)


@dataclass(frozen=True)
class PartsSource:
    """The generated data set, as a `Source`, at one level of co-occurrence.

    Attributes:
        level: of co-occurrence, in [0, 1].
        name, default_size: as of every `Source`.
    """

    level: float = 1.0
    name: str = "parts"
    default_size: int = 32

    def variant(self, option: str) -> PartsSource:
        """The data set at another level, which is written as a decimal number.

        Raises:
            CossError: not a number in [0, 1].
        """
        if not re.fullmatch(r"0(\.\d+)?|1(\.0+)?", option):
            raise CossError(
                f"parts:{option} is no level of co-occurrence; write a number from parts:0.0 "
                "(parts tell nothing of each other) to parts:1.0 (every part implies the scene)"
            )
        level = float(option)
        return PartsSource(level, "parts" if level == 1 else f"parts:{level}")

    def open(self, role: str, size: int, root: Path, download: bool) -> ArraySet:
        """The scenes of a role, rendered at `size`; `root` and `download` do not matter."""
        scenes = draw_scenes(role, np.arange(COUNTS[role]), self.level)
        pixels = torch.from_numpy(render(scenes, size))
        return ArraySet(self.name, role, pixels, torch.from_numpy(scenes.label), CLASSES, size)

    def missing(self, root: Path) -> None:
        """None: there is nothing that could be missing."""
        return


PARTS = PartsSource()
"""Generated scenes, 10 classes; parts:0.0 to parts:1.0: how often parts co-occur."""
