"""How a picture becomes the square that a model sees: resized, cut, padded; by Pillow, in uint8.

Models differ in it, and lose accuracy under another one's. Values of pixels are the encoder's own
business (`encoders.base.InputSpec`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from robustbench_coss.errors import CossError

MOST_PIXELS = 1 << 26  # 67 million, at 4 bytes each in Pillow

MODES = {
    "center": "the shorter side to {resize} px",
    "squash": "both sides to {resize} px",
    "border": "the longer side to {resize} px",
}
"""What is resized, by timm's names; then the centre is cut out, or padded where it is less."""


@dataclass(frozen=True)
class Geometry:
    """What is done to a picture before its pixels are numbers.

    Attributes:
        resize: side in px before the centre is cut out; None for size * 256 / 224, rounded.
        interpolation: Pillow's, by name in lower case; antialiased where it shrinks.
        mode: which side that is, one of `MODES`.
        fill: colour of the border in mode "border", 0 to 255.

    Raises:
        CossError: an interpolation or mode that is not known.
    """

    resize: int | None = None
    interpolation: str = "bilinear"
    mode: str = "center"
    fill: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        known = [kind.name.lower() for kind in Image.Resampling]
        for what, value, choices in (
            ("interpolation", self.interpolation, known),
            ("mode of cutting", self.mode, list(MODES)),
        ):
            if value not in choices:
                raise CossError(f"unknown {what} {value!r}; known: {', '.join(choices)}")

    def stored(self, size: int) -> dict[str, Any]:
        """JSON-able; empty for what is usual at this size, whichever way it is said."""
        resize = _usual(size) if self.resize is None else self.resize
        plain = Geometry(resize, self.interpolation, self.mode)
        if plain == Geometry(_usual(size)):
            return {}
        return asdict(plain) | {"fill": list(self.fill if self.mode == "border" else (0, 0, 0))}

    def described(self, size: int) -> str:
        """In words: "the shorter side to 256 px, bilinear, of which the centre of 224 px"."""
        resize = _usual(size) if self.resize is None else self.resize
        words = f"{MODES[self.mode].format(resize=resize)}, {self.interpolation}"
        return f"{words}, of which the centre of {size} px"

    def cut(self, picture: Image.Image, size: int) -> Image.Image:
        """An RGB picture as [size, size].

        The same pixels as torchvision's `ImageClassification` presets and timm's
        `transforms_imagenet_eval` give.
        """
        # Imported here: listing data sets must not cost torchvision's start-up time.
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms import functional as transforms

        resize = _usual(size) if self.resize is None else self.resize
        kind = InterpolationMode(self.interpolation)
        width, height = picture.size
        target: int | list[int] = resize
        if self.mode == "squash":
            target = [resize, resize]
        elif self.mode == "border":
            target = [max(1, round(side * resize / max(width, height))) for side in (height, width)]
        scale = resize / min(width, height)
        if self.mode == "center" and max(width, height) * scale * resize > MOST_PIXELS:
            return self._of_strip(picture, size, scale)
        resized: Image.Image = transforms.resize(picture, target, kind)
        if self.mode == "border":
            resized = _padded(resized, size, self.fill)
        cut: Image.Image = transforms.center_crop(resized, size)
        return cut

    def _of_strip(self, picture: Image.Image, size: int, scale: float) -> Image.Image:
        # So thin that, enlarged, it would not fit into memory: only its centre is enlarged.
        width, height = picture.size
        side = size / scale
        at = [(round((int(length * scale) - size) / 2)) / scale for length in (width, height)]
        box = (at[0], at[1], min(at[0] + side, width), min(at[1] + side, height))
        how = Image.Resampling[self.interpolation.upper()]
        return picture.resize((size, size), how, box=box)


USUAL = Geometry()
"""What most ImageNet models are evaluated by: the shorter side to 256 px, the centre of 224."""


def geometry_of(images: Any) -> dict[str, Any]:
    """`Geometry.stored` of an image set; empty for one that is held at a size of its own."""
    found = getattr(images, "geometry", None)
    return {} if found is None else found.stored(images.size)


def _usual(size: int) -> int:
    """The side that pictures are resized to for most ImageNet models: 256 px for 224."""
    return round(size * 256 / 224)


def _padded(picture: Image.Image, size: int, fill: tuple[int, int, int]) -> Image.Image:
    """A picture at the centre of one of at least `size` px each way; left and top get the less."""
    width, height = (max(size, side) for side in picture.size)
    if (width, height) == picture.size:
        return picture
    whole = Image.new("RGB", (width, height), fill)
    whole.paste(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
    return whole
