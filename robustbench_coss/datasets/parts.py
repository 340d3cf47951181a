"""`parts`: generated scenes whose class is which parts occur together, and where.

An object has two of one part and two of another in the corners of a square. There are five kinds
of parts; every one occurs in every corner in exactly two classes, and every pair in exactly two
classes: neither a part, nor a part at its place, nor the pair of parts tells the class. Pose,
colours and background are drawn independently of the class and all parts have the same area, so
colours tell nothing either.

A scene is described in unit coordinates and can be rendered at any resolution. It needs no
files: this is the data set that is always there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_coss.datasets.base import ArraySet
from robustbench_coss.seeds import uniform

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PARTS_OF_OBJECTS = ("disc", "bars", "ring", "posts", "cross")
COUNTS = {"train": 9_000, "validation": 1_000, "test": 2_000}

# Corners go round the square: upper left, upper right, lower right, lower left.
_CORNERS = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) / np.sqrt(2)
# Classes 2k and 2k + 1 have two of part k and two of the next part: in rows, or crosswise. No
# rotation or reflection turns rows into a cross, so mirrored training crops do not turn one class
# into the other.
_ROWS, _CROSSWISE = (0, 0, 1, 1), (0, 1, 0, 1)
ARRANGEMENTS: Ints = np.array(
    [[(first + step) % 5 for step in steps] for first in range(5) for steps in (_ROWS, _CROSSWISE)]
)

# Lengths in units of the part's radius, chosen so that each part has the area of the unit disc, pi.
_RING, _RING_HALF = 0.95, 0.25 / 0.95  # mean radius, half thickness: 4 R w = 1
_ARM_HALF = 0.36  # cross: area = 8 L w - 4 w^2
_ARM = (np.pi + 4 * _ARM_HALF**2) / (8 * _ARM_HALF)
_BAR = 1.2  # half length of one of three parallel bars: area = 12 L w
_BAR_HALF = np.pi / (12 * _BAR)
_PITCH = 0.8  # from bar to bar
_REACH = np.hypot(_BAR, _PITCH + _BAR_HALF)  # farthest point of any part: the bars' corners

_SLOT = 1.95  # distance of a part from the object's centre, in radii
_JITTER = 0.12  # of a part about its slot, in radii
_FRAGMENTS = 3
_WAVES = 2
_CHUNK = 64  # scenes rendered together: few enough for the processor's cache


@dataclass(frozen=True)
class Scenes:
    """Descriptions of B scenes of L layers in unit coordinates (x right, y down, picture = 1).

    Attributes:
        label: [B] class.
        kind: [B, L] index into `PARTS_OF_OBJECTS`; later layers cover earlier ones.
        centre: [B, L, 2] x and y.
        radius: [B, L] radius of the disc of the same area.
        angle: [B, L] radians, clockwise.
        cut: [B, L] direction in radians in which a fragment is cut off at its middle, NaN for
            whole parts.
        colour: [B, L, 3] RGB in [0, 1].
        ground: [B, 2, 3] RGB at the two ends of the background's gradient.
        slope: [B] direction of the gradient, radians.
        waves: [B, W, 3] cycles per picture along x and y, and phase in radians, of the texture.
    """

    label: Ints
    kind: Ints
    centre: Floats
    radius: Floats
    angle: Floats
    cut: Floats
    colour: Floats
    ground: Floats
    slope: Floats
    waves: Floats

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, chosen: slice) -> Scenes:
        return Scenes(**{name: value[chosen] for name, value in vars(self).items()})


def _between(low: float, high: float, draw: Floats) -> Floats:
    return low + (high - low) * draw


def _colours(hue: Floats, lightness: Floats, saturation: Floats) -> Floats:
    """[..., 3] RGB with mean `lightness`: hue, lightness and saturation are all in [0, 1]."""
    chroma = saturation * np.minimum(lightness, 1 - lightness)
    turn = hue[..., None] - np.arange(3) / 3
    return lightness[..., None] + chroma[..., None] * np.cos(2 * np.pi * turn)


def draw_scenes(role: str, index: Ints) -> Scenes:
    """The scenes of a role with the given numbers; scene i is the same whatever else is drawn.

    Classes take turns: scene i is of class i mod 10.

    Args:
        role: "train", "validation" or "test".
        index: [B] scene numbers, >= 0.
    """
    b = len(index)
    label = index % len(ARRANGEMENTS)

    def draw(what: str, *shape: int) -> Floats:
        count = int(np.prod(shape))
        return uniform(index, count, "parts", role, what).reshape(b, *shape)

    pose = draw("pose", 4)
    part_radius = _between(0.115, 0.14, pose[:, 0])
    turn = np.deg2rad(_between(-20, 20, pose[:, 1]))
    # The object moves as far as it can without leaving the picture.
    half = part_radius * (_SLOT * np.cos(np.pi / 4 - np.abs(turn)) + _JITTER + _REACH)
    shift = (2 * pose[:, 2:] - 1) * np.maximum(0.5 - half, 0)[:, None]

    place = draw("place", 4, 3)
    corner = _SLOT * _CORNERS + _JITTER * (2 * place[:, :, :2] - 1) / np.sqrt(2)
    cos, sin = np.cos(turn)[:, None], np.sin(turn)[:, None]
    x, y = corner[:, :, 0], corner[:, :, 1]
    turned = np.stack([cos * x - sin * y, sin * x + cos * y], axis=2)
    centre = 0.5 + shift[:, None] + part_radius[:, None, None] * turned
    angle = turn[:, None] + np.deg2rad(_between(-10, 10, place[:, :, 2]))

    fragment = draw("fragment", _FRAGMENTS, 6)
    layers = draw("colour", _FRAGMENTS + 4, 3)
    ground = draw("ground", 2, 3)
    slope = draw("slope", 1)[:, 0]
    # Parts and fragments are light on dark, so they stand out in every grey version of the picture.
    front = _between(0.7, 0.85, layers[:, :, 1])
    back = _between(0.12, 0.3, ground[:, :, 1])

    wave = draw("wave", _WAVES, 3)
    cycles, heading = _between(1.5, 5, wave[:, :, 0]), np.pi * wave[:, :, 1]
    return Scenes(
        label=label,
        kind=np.concatenate(
            [(fragment[:, :, 0] * 5).astype(np.int64), ARRANGEMENTS[label]], axis=1
        ),
        centre=np.concatenate([fragment[:, :, 1:3], centre], axis=1),
        radius=np.concatenate(
            [_between(0.08, 0.13, fragment[:, :, 3]), np.repeat(part_radius[:, None], 4, axis=1)],
            axis=1,
        ),
        angle=np.concatenate([2 * np.pi * fragment[:, :, 4], angle], axis=1),
        cut=np.concatenate([2 * np.pi * fragment[:, :, 5], np.full((b, 4), np.nan)], axis=1),
        colour=_colours(layers[:, :, 0], front, _between(0.2, 0.8, layers[:, :, 2])),
        ground=_colours(ground[:, :, 0], back, _between(0, 0.6, ground[:, :, 2])),
        slope=2 * np.pi * slope,
        waves=np.stack(
            [cycles * np.cos(heading), cycles * np.sin(heading), 2 * np.pi * wave[:, :, 2]], axis=2
        ),
    )


def render(scenes: Scenes, size: int) -> NDArray[np.uint8]:
    """Render scenes as [B, 3, size, size] uint8.

    Edges are antialiased: a pixel's coverage is its signed distance to the outline, in pixels,
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
    """[B, 3, H, W] float32: a gradient between two colours under a faint grey texture."""
    start, end = scenes.ground[:, 0], scenes.ground[:, 1]
    # Runs from 0 to 1 between opposite corners of the picture at most.
    along_x = (middle - 0.5) * np.cos(scenes.slope)[:, None] / np.sqrt(2)
    along_y = (middle - 0.5) * np.sin(scenes.slope)[:, None] / np.sqrt(2) + 0.5
    share = _outer_sum(along_x, along_y)[:, None]
    change = (end - start).astype(np.float32)[:, :, None, None]
    picture: NDArray[np.float32] = share * change + start.astype(np.float32)[:, :, None, None]
    for fx, fy, phase in scenes.waves.transpose(1, 2, 0):
        # cos(a + b) = cos a cos b - sin a sin b keeps cosines off the pixels.
        a = 2 * np.pi * fx[:, None] * middle + phase[:, None]
        b = 2 * np.pi * fy[:, None] * middle
        cos_a, sin_a = (0.04 * f(a).astype(np.float32)[:, None, :] for f in (np.cos, np.sin))
        cos_b, sin_b = (f(b).astype(np.float32)[:, :, None] for f in (np.cos, np.sin))
        picture += (cos_a * cos_b - sin_a * sin_b)[:, None]
    return picture


def _outer_sum(along_x: Floats, along_y: Floats) -> NDArray[np.float32]:
    """[N, W] and [N, H] to [N, H, W] float32."""
    total: NDArray[np.float32] = (
        along_x.astype(np.float32)[:, None, :] + along_y.astype(np.float32)[:, :, None]
    )
    return total


def _coverage(scenes: Scenes, middle: Floats) -> NDArray[np.float32]:
    """[B, L, H, W] float32 in [0, 1]: how much of a pixel each layer covers."""
    size = len(middle)
    covered = np.empty((*scenes.kind.shape, size, size), np.float32)
    for kind, name in enumerate(PARTS_OF_OBJECTS):
        chosen = scenes.kind == kind
        radius, angle, cut = (v[chosen] for v in (scenes.radius, scenes.angle, scenes.cut))
        x, y = ((middle - c[:, None]) / radius[:, None] for c in scenes.centre[chosen].T)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        distance = _distance(name, _outer_sum(cos * x, sin * y), _outer_sum(-sin * x, cos * y))
        cuts = ~np.isnan(cut)
        cos, sin = np.cos(cut[cuts])[:, None], np.sin(cut[cuts])[:, None]
        distance[cuts] = np.maximum(distance[cuts], _outer_sum(cos * x[cuts], sin * y[cuts]))
        distance *= (-size * radius).astype(np.float32)[:, None, None]
        distance += np.float32(0.5)
        covered[chosen] = np.clip(distance, 0, 1, out=distance)
    return covered


def _distance(part: str, u: NDArray[np.float32], v: NDArray[np.float32]) -> NDArray[np.float32]:
    """Signed distance to a part's outline, negative inside, in units of its radius.

    Exact beside edges, which antialiasing needs; too small in absolute value off outer corners.
    Closed forms as in I. Quilez, "2D distance functions".
    """
    distance: NDArray[np.float32]
    if part == "disc":
        distance = np.sqrt(u * u + v * v) - np.float32(1)
    elif part == "ring":
        distance = np.abs(np.sqrt(u * u + v * v) - np.float32(_RING)) - np.float32(_RING_HALF)
    elif part == "cross":
        u, v = np.abs(u), np.abs(v)
        # The nearer of two bars: the longer coordinate against the arm's end, the shorter
        # against its side.
        distance = np.maximum(
            np.maximum(u, v) - np.float32(_ARM), np.minimum(u, v) - np.float32(_ARM_HALF)
        )
    else:  # three parallel bars: lying ones are called bars, standing ones posts
        along, across = np.abs((u, v) if part == "bars" else (v, u))
        nearest = np.minimum(across, np.abs(across - np.float32(_PITCH)))
        distance = np.maximum(along - np.float32(_BAR), nearest - np.float32(_BAR_HALF))
    return distance


def _class_name(parts: Ints) -> str:
    return "-".join(PARTS_OF_OBJECTS[part] for part in parts)


@dataclass(frozen=True)
class PartsSource:
    """The generated data set, as a `Source`. Attributes: see there."""

    name: str = "parts"
    default_size: int = 32

    def open(self, role: str, size: int, root: Path, download: bool) -> ArraySet:
        """The scenes of a role, rendered at `size`; `root` and `download` do not matter."""
        scenes = draw_scenes(role, np.arange(COUNTS[role]))
        return ArraySet(
            self.name,
            role,
            torch.from_numpy(render(scenes, size)),
            torch.from_numpy(scenes.label),
            tuple(_class_name(parts) for parts in ARRANGEMENTS),
            size,
        )

    def missing(self, root: Path) -> None:
        """None: there is nothing that could be missing."""
        return


PARTS = PartsSource()
