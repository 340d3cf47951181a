"""`coss-bench show`: what a model makes of one image, and of the image disturbed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
    data_root: Annotated[Path, typer.Option(help="Folder of the data sets.")] = Path("data"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
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
    from robustbench_coss.datasets.base import dataset_source, open_dataset
    from robustbench_coss.errors import CossError
    from robustbench_coss.evaluations.probes.features import to_device
    from robustbench_coss.evaluations.running.request import choose_dataset
    from robustbench_coss.evaluations.show import find_classifier, look, read_image
    from robustbench_coss.figures.one_image import draw_sheet, shorten
    from robustbench_coss.files import slug, write_atomically
    from robustbench_coss.machine.environment import resolve_device
    from robustbench_coss.models.load import load_model

    if (image is None) == (index is None):
        raise CossError("give either --image FILE or --index N, and not both")
    if out is not None and out.suffix != ".png":
        raise CossError(f"--out writes PNG; give it a name that ends in .png, not {out}")
    if dataset is not None:
        dataset_source(dataset)  # a misspelt name is an error, not a missing probe
    where_to = resolve_device(device)
    checkpoint = load_model(run)
    size = int(checkpoint.metadata["size"])
    label = None
    if image is not None:
        name = dataset or checkpoint.metadata.get("dataset")
        pixels, about, stem = read_image(image, size), shorten(image.name, 60), image.stem
    else:
        assert index is not None
        name = choose_dataset(checkpoint, dataset, transfer=True)
        test = open_dataset(name, "test", size=size, root=data_root)
        if not 0 <= index < len(test):
            raise CossError(f"{name!r} has test images 0 … {len(test) - 1}, got --index {index}")
        pixels, about, stem = test.images([index]), f"test image {index} of {name}", str(index)
        if int(test.labels[index]) >= 0:
            label = int(test.labels[index])
            about += f" ({shorten(test.classes[label], 60)})"
    out = out or Path(f"{slug(checkpoint.name)}-{slug(stem)}.png")
    if image is not None and out.exists() and out.samefile(image):
        raise CossError(f"{out} is the picture itself; choose another name with --out")

    classifier = find_classifier(checkpoint, name, results=results, data_root=data_root)
    chosen = None
    if classifier is not None:
        to_device(classifier.module, where_to)
        chosen = None if explained is None else classifier.class_of(explained)
    elif explained is not None:
        raise CossError(
            f"--class needs a classifier and {results} has no probe of {checkpoint.name}; "
            f"run `coss-bench eval {run} --suite clean --results {results}` first"
        )
    to_device(checkpoint.encoder, where_to)
    sheet = look(
        checkpoint.encoder,
        pixels,
        classifier=classifier,
        label=label,
        explained=chosen,
        index=index or 0,
        title=f"{checkpoint.name} on {about}",
    )
    write_atomically(out, draw_sheet(sheet))
    typer.echo(f"wrote {out}")
    if classifier is None:
        typer.echo(
            f"without answers and attacks: {results} has no probe of this model; "
            f"`coss-bench eval {run} --suite clean --results {results}` makes one"
        )
