"""Published test sets in their exact layouts, measured by a head whose answers are worked out here.

Every picture is of one shade; the head's outputs follow from it. What a set's publication counts as
right is said again in this file, and nothing of the suite is asked for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.published_sets import FORTY, WNIDS, imagenet, publish, put
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from robustbench_coss.analysis.numbers import load_table
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run, suite_names
from robustbench_coss.models.wrap import wrap_module
from robustbench_coss.records.record import Record, read_record
from robustbench_coss.test_sets.description import class_map, describe, shipped

pytestmark = pytest.mark.filterwarnings("ignore:.*test set:UserWarning")
CIFAR = list(describe("cifar-10.1").classes)
FEW = WNIDS[5::83]  # twelve
SIZE = 8
Outputs = NDArray[np.float64]


class Shades(nn.Module):
    """Outputs by the mean of the first channel: the nearer to a class's own shade, the higher."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        order = np.random.default_rng(classes).permutation(classes)
        self.register_buffer("shade", torch.from_numpy((order + 0.5) / classes).float())

    def forward(self, x: Tensor) -> Tensor:
        mean = x[:, 0].mean((1, 2))[:, None]
        return self.scale * -30 * (mean - self.shade) ** 2

    def of(self, path: Path, border: int = 0) -> Outputs:
        """[K] outputs for a picture file, by numpy."""
        with Image.open(path) as opened:
            level = np.asarray(opened.convert("RGB"))[border, border, 0] / 255
        return np.asarray(-30 * (level - self.shade.numpy()) ** 2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of ImageNet's class folders."""
    folder = tmp_path_factory.mktemp("whole")
    imagenet(folder)
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageNet of twelve classes."""
    folder = tmp_path_factory.mktemp("few")
    imagenet(folder, FEW)
    return folder


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with the names of CIFAR-10's classes, which its successors are mapped to."""
    folder = tmp_path_factory.mktemp("cifar")
    for part in ("train", "val"):
        put(folder / part, CIFAR, 4)
    return folder


Measure = Callable[..., Record]


@pytest.fixture
def measure(tmp_path: Path) -> Measure:
    def run(root: Path, *sets: str, dataset: str = "imagenet", **options: Any) -> Record:
        folder = root / ("imagenet/train" if dataset == "imagenet" else "train")
        classes = len([p for p in folder.iterdir() if not p.name.startswith(".")])
        request = Evaluation(
            "shift",
            dataset=dataset,
            data_root=root,
            results=tmp_path / "results",
            options={"shift": {"sets": list(sets), **options.pop("shift", {})}},
            device="cpu",
            **options,
        )
        model = wrap_module(Shades(classes), name="shades", size=SIZE, classes=classes)
        ((path, record),) = evaluate_run(lambda: model, request).items()
        again = read_record(path)  # as every reader holds it
        assert [c.condition for c in again.cells] == [c.condition for c in record.cells]
        return again

    return run


def value(record: Record, name: str) -> float:
    (metric,) = [m for m in record.metrics if m.name == name]
    return float(np.mean([record.column(c, metric.column).mean() for c in metric.conditions]))


def clean_files(root: Path) -> list[tuple[str, Path]]:
    return [(p.parent.name, p) for p in sorted((root / "imagenet" / "val").glob("*/*.JPEG"))]


def names_of(root: Path) -> list[str]:
    return sorted(p.name for p in (root / "imagenet" / "val").iterdir())


# ---- natural sets ----

BY_FOLDER = ["imagenet-a", "imagenet-r", "imagenet-sketch", "objectnet", "imagenet-v2-threshold"]
BY_FOLDER.append("stylized-imagenet")


def right(outputs: Outputs, wanted: tuple[str, ...], known: set[str], names: list[str]) -> bool:
    """Whether an answer is one of the wanted classes, of `known` ones where there are any."""
    if known:
        outputs = np.where([name in known for name in names], outputs, -np.inf)
    return names[int(outputs.argmax())] in wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_FOLDER)
def test_sets_of_pictures_in_folders_are_measured_as_their_authors_do(
    name: str, root: Path, measure: Measure
) -> None:
    folder, told, known = publish(name, root), describe(name), class_map(name)
    head, names = Shades(1000), names_of(root)
    if told.border:  # white around, and inside the shade of a class that is right
        for key, (first, *_) in known.items():
            level = round(255 * float(head.shade[names.index(first)]))
            framed = Image.new("RGB", (12, 12), (255, 255, 255))
            framed.paste((level,) * 3, (2, 2, 10, 10))
            framed.save(folder / key / "framed.png")
    record = measure(root, name)
    every = {target for targets in known.values() for target in targets}
    within = every if told.decision == "within" else set()
    shifted, clean = [], []
    for key, wanted in known.items():
        outputs = [head.of(path, told.border) for path in (folder / key).iterdir()]
        shifted += [right(each, wanted, within, names) for each in outputs]
    for wnid, path in clean_files(root):
        if wnid in every:
            (wanted,) = [targets for targets in known.values() if wnid in targets]
            clean.append(right(head.of(path), wanted, within, names))
    key = "shift_" + name.replace("-", "_")
    assert 0 < sum(shifted) < len(shifted)
    assert value(record, f"{key}_top1") == pytest.approx(np.mean(shifted), abs=1e-9)
    drop = np.mean(clean) - np.mean(shifted)
    assert value(record, f"{key}_drop") == pytest.approx(100 * drop, abs=1e-4)
    assert record.column(name, "correct").size == len(shifted)
    (check,) = [c for c in record.checks if c.name == f"{name} is whole"]
    assert not check.passed
    assert check.detail == f"{len(shifted):,} of the {told.pictures:,} pictures that were published"


@pytest.mark.slow
def test_folders_that_are_numbers_are_read_in_their_order_which_is_said(
    root: Path, measure: Measure
) -> None:
    publish("imagenet-v2-top-images", root)
    with pytest.warns(UserWarning, match="are numbers") as said:
        measure(root, "imagenet-v2-top-images")
    (line,) = [str(w.message) for w in said if "are numbers" in str(w.message)]
    assert f"0 is {WNIDS[0]}, 1 is {WNIDS[1]}, 2 is {WNIDS[2]}, …, 999 is {WNIDS[999]}" in line


@pytest.mark.slow
def test_several_right_answers_and_none_are_counted_as_real_does(
    root: Path, measure: Measure
) -> None:
    folder = publish("imagenet-real", root)
    rows, head, names = json.loads((folder / "real.json").read_text()), Shades(1000), names_of(root)
    record = measure(root, "imagenet-real")
    real, own = [], []
    for number, (wnid, path) in enumerate(clean_files(root)):
        if rows[number]:
            answer = int(head.of(path).argmax())
            real.append(answer in rows[number])
            own.append(names[answer] == wnid)
    assert record.column("imagenet-real", "correct").size == len(real) < 1000
    assert value(record, "shift_imagenet_real_top1") == pytest.approx(np.mean(real))
    drop = np.mean(own) - np.mean(real)
    assert value(record, "shift_imagenet_real_drop") == pytest.approx(100 * drop, abs=1e-4)


# ---- superclasses ----


def superclass(outputs: Outputs, known: dict[str, tuple[str, ...]], names: list[str]) -> str:
    shares = np.exp(outputs - outputs.max())
    means = {k: np.mean([shares[names.index(t)] for t in targets]) for k, targets in known.items()}
    return max(means, key=lambda k: float(means[k]))


@pytest.mark.slow
def test_superclasses_are_decided_by_mean_probability(root: Path, measure: Measure) -> None:
    folder, known = publish("laion-c", root), class_map("laion-c")
    record, head, names = measure(root, "laion-c"), Shades(1000), names_of(root)
    at = {c.condition: c for c in record.cells if c.group == "laion-c"}
    assert len(at) == 30
    assert at["laion-c: mosaic@4"].level == 4.0
    expected = [
        superclass(head.of(path), known, names) == key
        for key in known
        for path in (folder / "mosaic" / "intensity_level_4" / key).iterdir()
    ]
    assert record.column("laion-c: mosaic@4", "correct").mean() == pytest.approx(np.mean(expected))
    belongs = {target: key for key, targets in known.items() for target in targets}
    clean = [
        superclass(head.of(path), known, names) == belongs[wnid]
        for wnid, path in clean_files(root)
        if wnid in belongs
    ]
    assert record.column("laion-c: clean", "correct").mean() == pytest.approx(np.mean(clean))


@pytest.mark.parametrize("kind", ["edge", "silhouette", "sketch", "stylized"])
def test_pictures_of_model_vs_human_are_decided_as_its_code_does(
    kind: str, root: Path, measure: Measure
) -> None:
    name, head, names = f"model-vs-human-{kind}", Shades(1000), names_of(root)
    known, right = class_map("cue-conflict"), []
    for path in publish(name, root).rglob("*.*"):
        wanted = path.name.split("_")[4] if "dnn" in path.parts else path.parent.name
        right.append(superclass(head.of(path), known, names) == wanted)
    assert 0 < sum(right) < len(right) >= 16
    record = measure(root, name)
    assert value(record, f"shift_model_vs_human_{kind}_top1") == pytest.approx(np.mean(right))


@pytest.mark.slow
def test_shape_bias_is_the_share_of_shapes_among_answers_that_are_either(
    root: Path, measure: Measure
) -> None:
    folder, known = publish("cue-conflict", root), class_map("cue-conflict")
    record, head, names = measure(root, "cue-conflict"), Shades(1000), names_of(root)
    shapes = both = 0
    for path in folder.glob("*/*.png"):
        shape, texture = (part.rstrip("0123456789") for part in path.stem.split("-"))
        answer = superclass(head.of(path), known, names)
        if shape != texture:
            shapes, both = shapes + (answer == shape), both + (answer in (shape, texture))
    counted = record.column("cue-conflict", "texture").sum()
    assert counted == both - shapes
    # A picture whose texture is that of its shape is no conflict: it counts for neither.
    assert value(record, "shift_cue_conflict_shape_bias") == pytest.approx(shapes / both, abs=1e-6)
    assert record.column("cue-conflict: shape bias", "counted").sum() == both


# ---- disturbed copies of the test images ----


@pytest.mark.slow
@pytest.mark.parametrize("name", ["imagenet-c-bar", "imagenet-3dcc"])
def test_disturbed_pictures_are_paired_with_the_clean_ones(
    name: str, few: Path, measure: Measure
) -> None:
    publish(name, few)
    record = measure(few, name)
    conditions = [c for c in record.cells if c.group == name]
    assert len(conditions) == 5 * len(describe(name).kinds)
    clean = record.column("clean", "correct")
    for cell in conditions:  # the pictures are those of the test set
        assert np.array_equal(cell.outcomes["correct"], clean)
    assert record.column(f"{name}: drop", "drop").tolist() == [0.0] * len(clean)


@pytest.mark.slow
def test_severities_that_are_called_by_their_strength_are_sorted_by_it(
    few: Path, tmp_path: Path, measure: Measure
) -> None:
    imagenet(tmp_path, FEW)
    folder = publish("imagenet-c-bar", tmp_path)
    strengths = ["2.35", "10.0", "3.2", "4.9", "9.15"]
    for place in folder.iterdir():
        for level, strength in enumerate(sorted(strengths, key=float), start=1):
            (place / str(level)).rename(place / strength)
    for number, path in enumerate(sorted((folder / "sparkles" / "10.0").glob("*/*.JPEG"))):
        path.unlink()
        Image.new("RGB", (SIZE, SIZE), (20 * number,) * 3).save(path, quality=95)
    record, head = measure(tmp_path, "imagenet-c-bar"), Shades(12)
    clean = record.column("clean", "correct")
    found = record.column("imagenet-c-bar: sparkles@5", "correct")
    paths = sorted((folder / "sparkles" / "10.0").glob("*/*.JPEG"))
    answers = [int(head.of(path).argmax()) for path in paths]
    assert found.tolist() == [answers[i] == label for i, label in zip(*where(record), strict=True)]
    assert not np.array_equal(found, clean)
    assert np.array_equal(record.column("imagenet-c-bar: sparkles@2", "correct"), clean)


def where(record: Record) -> tuple[list[int], list[int]]:
    return record.index.tolist(), record.label.tolist()


@pytest.mark.parametrize("name", ["cifar-10.1", "cifar-10.2", "cifar-10-c-bar"])
def test_arrays_are_mapped_by_the_names_of_classes(
    name: str, cifar: Path, measure: Measure
) -> None:
    # Folders are in the order of names, which is CIFAR-10's own.
    labels = FORTY if name != "cifar-10-c-bar" else np.repeat(np.arange(10), 4)
    folder, told = publish(name, cifar, labels), describe(name)
    record, head = measure(cifar, name, dataset="imagefolder"), Shades(10)
    condition = name if not told.kinds else f"{name}: ripple@3"
    file = told.images.format(kind="ripple").partition("/")[0]
    opened = np.load(folder / file)
    pixels = opened["images"] if file.endswith(".npz") else opened
    pixels = pixels if not told.kinds else pixels[80:120]
    planes = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    small = nn.functional.interpolate(
        planes.float(), (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False
    )
    expected = head(small.round() / 255).argmax(1) == torch.from_numpy(labels)
    found = record.column(condition, "correct")
    assert sorted(found.tolist()) == sorted(expected.tolist())


def test_an_encoder_with_a_probe_is_measured_too_and_a_limit_takes_some_of_each(
    cifar: Path, tmp_path: Path
) -> None:
    publish("cifar-10.1", tmp_path)
    options = {"shift": {"sets": ["cifar-10.1"], "root": tmp_path}}
    request = Evaluation(
        "shift", dataset="imagefolder", data_root=cifar, results=tmp_path, limit=12, options=options
    )
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 7))
    model = wrap_module(net, name="features", size=SIZE)
    (record,) = evaluate_run(lambda: model, request).values()
    assert record.model["probe"]["n_train"] > 0
    assert record.index.size == record.column("cifar-10.1", "correct").size == 12
    assert record.column("cifar-10.1: drop", "drop").size == 24
    (line,) = [
        x for x in load_table(tmp_path).to_dict("records") if x["metric"] == "shift_cifar_10_1_drop"
    ]
    assert line["n"] == 24
    assert line["better"] == "lower"


# ---- which are measured ----


@pytest.mark.slow
def test_all_leaves_it_out_and_by_default_all_sets_that_are_there_are_measured(
    few: Path, tmp_path: Path
) -> None:
    assert "shift" not in suite_names(["all"])
    publish("cifar-10.1", few)
    for name in ("imagenet-c-bar", "imagenet-r"):
        if not (few / name).exists():
            publish(name, few)
    request = Evaluation("shift", dataset="imagenet", data_root=few, results=tmp_path)
    model = wrap_module(Shades(12), name="shades", size=SIZE, classes=12)
    with pytest.warns(UserWarning, match=r"of the 200 classes of test set imagenet-r"):
        (record,) = evaluate_run(lambda: model, request).values()
    groups = {c.group for c in record.cells} - {"", "same classes", "derived"}
    assert groups >= {"imagenet-c-bar", "imagenet-r"}
    assert "cifar-10.1" not in groups  # of other classes
    assert record.extra["sets"]["imagenet-r"]["classes"] == len(
        set(class_map("imagenet-r")) & {*FEW}
    )


def test_a_set_of_ones_own_needs_a_yaml_file_alone(
    few: Path, tmp_path: Path, measure: Measure
) -> None:
    put(tmp_path / "data" / "mine", ["one", "two"], 3)
    (tmp_path / "my-set.yaml").write_text(
        "{title: Mine, about: x, trained_on: imagenet, folders: [mine], layout: folders, "
        f"classes: {{one: [{FEW[0]}, {FEW[3]}], two: {FEW[1]}}}, pictures: 6, paper: x, source: x, "
        "licence: x, checked: x}"
    )
    record = measure(few, str(tmp_path / "my-set.yaml"), shift={"root": tmp_path / "data"})
    assert record.column("my-set", "correct").size == 6
    assert [c.passed for c in record.checks if c.name == "my-set is whole"] == [True]


@pytest.mark.parametrize("name", shipped())
def test_a_set_that_is_not_there_says_where_to_get_it(
    name: str, tmp_path: Path, few: Path, measure: Measure
) -> None:
    with pytest.raises(CossError) as error:
        measure(few, name, shift={"root": tmp_path})
    message = str(error.value)
    assert message.startswith(f"test set {name} is not in {tmp_path} (looked for ")
    assert describe(name).source in message
    assert "\n" not in message
