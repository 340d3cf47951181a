"""`coss-bench show`: what a model makes of one image, and of the image disturbed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_coss.cli.eval_options import DataRoot, Device
from robustbench_coss.cli.leaderboard import Force
from robustbench_coss.errors import CossError
from robustbench_coss.machine.terminal import say

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_coss.evaluations.show import Classifier
    from robustbench_coss.models.checkpoint import Checkpoint


def show(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run folder, or encoder.safetensors file.")
    ],
    image: Annotated[Path | None, typer.Option(help="Picture file.", metavar="FILE")] = None,
    index: Annotated[
        int | None, typer.Option(help="Instead of --image: test image number N of the data set.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="PNG to write; default: RUN-IMAGE.png in this folder.", metavar="FILE"),
    ] = None,
    explained: Annotated[
        str | None,
        typer.Option(
            "--class",
            help="Class (name or number) whose saliency is shown; default: each answer's own.",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Data set of --index and of the probe; default: the one pretrained on."),
    ] = None,
    results: Annotated[
        Path, typer.Option(help="Folder whose probes/ is searched for a classifier.")
    ] = Path("results"),
    data_root: DataRoot = Path("data"),
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Show what a model makes of one image, and what its local representations agree on.

    A column each for the image, three corruptions of it and two attacks on it. Rows: the picture
    with the model's answer; saliency; how alike each local representation is to the global one;
    and to the one that is most like all others.

    Answers are those of the linear probe that `coss-bench eval` left in --results. Without one
    there are no attacks, and the picture says so.

    Examples:

      coss-bench show runs/co-byol --index 7

      coss-bench show runs/co-byol --image cat.jpg --out cat-explained.png
    """
    from robustbench_coss.datasets.base import dataset_source
    from robustbench_coss.evaluations.probes.features import to_device
    from robustbench_coss.evaluations.show import find_classifier
    from robustbench_coss.figures.styles import PNG_MARK
    from robustbench_coss.files import slug, write_chosen
    from robustbench_coss.machine.environment import resolve_device
    from robustbench_coss.models.load import load_model

    if out is not None and out.suffix != ".png":
        raise CossError(f"--out writes PNG; give it a name that ends in .png, not {out}")
    if dataset is not None:
        dataset_source(dataset)  # a misspelt name is an error, not a missing probe
    where_to = resolve_device(device)
    checkpoint = load_model(run)
    shown = _image(checkpoint, image, index, dataset, data_root)
    out = out or Path(f"{slug(checkpoint.name)}-{slug(shown.stem)}.png")
    if image is not None and out.exists() and out.samefile(image):
        raise CossError(f"{out} is the picture itself; choose another name with --out")
    makes_probe = _makes_probe(run, results)
    classifier = find_classifier(checkpoint, shown.dataset, results=results, data_root=data_root)
    if classifier is not None:
        to_device(classifier.module, where_to)
    elif explained is not None:
        raise CossError(
            f"--class needs a classifier and {results} has no probe of {checkpoint.name}; "
            f"run {makes_probe} first"
        )
    to_device(checkpoint.encoder, where_to)
    picture = _draw(checkpoint, shown, classifier, explained, index or 0)
    write_chosen(out, picture, force=force, mark=PNG_MARK)
    say(f"wrote {out}")
    if classifier is None:
        without = f"without answers and attacks: {results} has no probe of this model"
        say(f"{without}; {makes_probe} makes one")


def _makes_probe(run: Path, results: Path) -> str:
    words = f"{quote(str(run))} --suite clean --results {quote(str(results))}"
    return f"`coss-bench eval {words}`"


@dataclass(frozen=True)
class _Shown:
    """The image to show.

    Attributes:
        pixels: [1, 3, S, S] uint8.
        dataset: whose classes the answers are of, if known.
        about: the image in words.
        stem: of the file to write.
        label: its class, if known.
    """

    pixels: Tensor
    dataset: str | None
    about: str
    stem: str
    label: int | None = None


def _image(
    checkpoint: Checkpoint,
    image: Path | None,
    index: int | None,
    dataset: str | None,
    data_root: Path,
) -> _Shown:
    if image is not None and index is None:
        return _picture(checkpoint, image, dataset)
    if index is not None and image is None:
        return _test_image(checkpoint, index, dataset, data_root)
    raise CossError("give either --image FILE or --index N, and not both")


def _picture(checkpoint: Checkpoint, image: Path, dataset: str | None) -> _Shown:
    from robustbench_coss.evaluations.show import read_image
    from robustbench_coss.figures.one_image import shorten

    spec = checkpoint.encoder.input
    pixels = read_image(image, spec.size, spec.geometry)
    name = dataset or checkpoint.metadata.get("dataset")
    return _Shown(pixels, name, shorten(image.name, 60), image.stem)


def _test_image(checkpoint: Checkpoint, index: int, dataset: str | None, root: Path) -> _Shown:
    from robustbench_coss.datasets.base import open_dataset
    from robustbench_coss.evaluations.running.request import choose_dataset
    from robustbench_coss.figures.one_image import shorten

    name = choose_dataset(checkpoint, dataset, transfer=True)
    spec = checkpoint.encoder.input
    test = open_dataset(name, "test", size=spec.size, root=root, geometry=spec.geometry)
    if not 0 <= index < len(test):
        raise CossError(f"{name!r} has test images 0 … {len(test) - 1}, got --index {index}")
    about, label = f"test image {index} of {name}", int(test.labels[index])
    if label >= 0:
        about += f" ({shorten(test.classes[label], 60)})"
    pixels = test.images([index])
    return _Shown(pixels, name, about, str(index), label if label >= 0 else None)


def _draw(
    checkpoint: Checkpoint,
    shown: _Shown,
    classifier: Classifier | None,
    explained: str | None,
    index: int,
) -> bytes:
    """The picture as PNG; `explained` names the class whose saliency is shown, if any."""
    from robustbench_coss.evaluations.show import look
    from robustbench_coss.figures.one_image import draw_sheet

    chosen = None
    if classifier is not None and explained is not None:
        chosen = classifier.class_of(explained)
    sheet = look(
        checkpoint.encoder,
        shown.pixels,
        classifier=classifier,
        label=shown.label,
        explained=chosen,
        index=index,
        title=f"{checkpoint.name} on {shown.about}",
    )
    return draw_sheet(sheet)
