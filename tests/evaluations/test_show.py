"""`coss-bench show`: pictures are read as data sets read them, maps agree with the suites."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from robustbench_coss.cli.show import show
from robustbench_coss.datasets.base import ArraySet, open_dataset
from robustbench_coss.datasets.parts import CLASSES as SCENES
from robustbench_coss.datasets.pictures import PictureSet
from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes.linear import ProbeConfig, get_probe, probe_path
from robustbench_coss.evaluations.protocol import Condition, Subject
from robustbench_coss.evaluations.show import (
    BUDGETS,
    CORRUPTIONS,
    SEVERITY,
    Classifier,
    attacked,
    corrupted,
    find_classifier,
    find_probe,
    likeness,
    local_to_global,
    look,
    most_representative,
    read_image,
    saliency,
)
from robustbench_coss.evaluations.suites.corruption import Corruption
from robustbench_coss.evaluations.suites.similarity import cosine_local_global, cosine_within
from robustbench_coss.figures.one_image import draw_sheet, shorten
from robustbench_coss.models.checkpoint import (
    Checkpoint,
    build_encoder,
    load_checkpoint,
    save_encoder,
)
from robustbench_coss.testing import CLASSES, TinyEncoder, pictures, tiny_subject


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smooth picture, wider than high."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    y, x = np.mgrid[0:60, 0:90]
    levels = np.stack([2 * x, 4 * y, x + y], axis=2).astype(np.uint8)
    Image.fromarray(levels).save(path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an untrained encoder, and a probe of it in `results` beside it."""
    folder = tmp_path_factory.mktemp("runs") / "my-run"
    torch.manual_seed(0)
    encoder = build_encoder("rf29_resnet18", size=32, width=1 / 16)
    about = {"arch": "rf29_resnet18", "size": 32, "width": 1 / 16, "dataset": "parts"}
    save_encoder(folder / "encoder.safetensors", encoder, about)
    train, validation = (open_dataset("parts", role, size=32) for role in ("train", "validation"))
    config = ProbeConfig(max_train=100)
    results, cpu = folder.parent / "results", torch.device("cpu")
    get_probe(load_checkpoint(folder), train, validation, config, results=results, device=cpu)
    return folder


def tiny_classifier() -> tuple[Subject, Classifier]:
    subject = tiny_subject()
    names = tuple(f"kind {k}" for k in range(CLASSES))
    return subject, Classifier(subject.classifier, names, "a test")


def uint8(count: int = 1, size: int = 32) -> Tensor:
    return (pictures(count, size).images * 255).round().to(torch.uint8)


# ---- reading pictures ----


def test_a_picture_is_read_as_an_evaluation_reads_picture_files(photo: Path) -> None:
    class Folder(PictureSet):
        size = 28

        def read(self, index: int) -> tuple[str, bytes]:
            return photo.name, photo.read_bytes()

    assert torch.equal(read_image(photo, 28), Folder().images([0]))


def test_a_picture_of_the_model_s_size_is_taken_as_it_is(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "own.png")
    found = read_image(tmp_path / "own.png", 32)
    assert np.array_equal(found[0].permute(1, 2, 0).numpy(), levels)


def test_a_picture_is_turned_upright(tmp_path: Path) -> None:
    levels = np.zeros((32, 32, 3), np.uint8)
    levels[:4] = 255  # bright at the top as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # the top as stored is the right-hand side as seen
    Image.fromarray(levels).save(tmp_path / "turned.png", exif=exif)
    found = read_image(tmp_path / "turned.png", 32)[0, 0]
    assert bool((found[:, -4:] == 255).all() and (found[:, :-4] == 0).all())


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_pictures_of_other_colour_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    Image.new("RGB", (40, 40), "white").convert(mode).save(path)
    found = read_image(path, 32)
    assert found.shape == (1, 3, 32, 32)
    assert int(found.min()) >= 254


def damaged(kind: str, photo: Path, folder: Path) -> Path:
    path = folder / "picture.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "truncated":
        path.write_bytes(photo.read_bytes()[:-30])
    elif kind == "text":
        path.write_text("no picture\n")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "postscript":
        Image.new("RGB", (40, 40)).save(path, format="EPS")
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "check its spelling"),
        ("folder", "not a file"),
        ("truncated", "truncated or damaged"),
        ("text", "not a picture of a known kind"),
        ("empty", "not a picture of a known kind"),
        ("postscript", "not a picture of a known kind"),
    ],
)
def test_what_is_no_picture_is_one_clear_line(
    tmp_path: Path, photo: Path, kind: str, words: str
) -> None:
    with pytest.raises(CossError, match=words) as caught:
        read_image(damaged(kind, photo, tmp_path), 32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", [4_000, 2_000])  # PIL warns above it and refuses above twice it
def test_a_picture_of_too_many_pixels_is_refused(
    photo: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(CossError, match=f"more than {limit:,} pixels"):
        read_image(photo, 32)


# ---- disturbed versions ----


def test_corruptions_are_those_that_the_suite_measures_a_test_image_under() -> None:
    image = pictures(1).images
    found = corrupted(image, 123)
    suite = Corruption(backend="fast")
    for name, version in zip(CORRUPTIONS, found.values(), strict=True):
        condition = Condition(f"{name}@{SEVERITY}", "any", float(SEVERITY), kind=name)
        assert torch.equal(version, suite.corrupt(image, [123], condition, 0))


def test_attacks_stay_in_their_ball_and_lower_the_share_of_the_answer() -> None:
    subject, _ = tiny_classifier()
    image = pictures(1, first=4).images
    answer = int(subject(image).argmax())
    found = attacked(subject, image)
    shares = [float(subject(x).softmax(1)[0, answer]) for x in (image, *found.values())]
    assert shares[0] > shares[1] > shares[2]
    for budget, version in zip(BUDGETS, found.values(), strict=True):
        assert float((version - image).abs().max()) <= budget / 255 + 1e-6
        assert float(version.min()) >= 0
        assert float(version.max()) <= 1


# ---- maps ----


def test_saliency_of_a_linear_model_is_the_size_of_its_weights() -> None:
    class Means(Encoder):
        def local(self, x: Tensor) -> Tensor:
            return x

    encoder = Means(InputSpec(8), 3, 3)
    classifier = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[1.0, -4.0, 2.0], [0.5, 0.25, -0.125]]))
    images = pictures(2, 8).images
    found = saliency(encoder, images, classifier, torch.tensor([0, 1]))
    # A logit is Σ w_c · mean of colour c over 64 pixels.
    assert torch.equal(found[0], torch.full((8, 8), 4 / 64))
    assert torch.equal(found[1], torch.full((8, 8), 0.5 / 64))
    # Without a classifier: the length √Σ m_c² has the derivative m_c / length / 64.
    means = images.mean(dim=(2, 3))
    expected = means.amax(dim=1) / means.norm(dim=1) / 64
    torch.testing.assert_close(saliency(encoder, images, None, None)[:, 3, 5], expected)


@pytest.mark.parametrize("at_once", [1 << 24, 1])
def test_similarities_to_the_global_average_to_what_the_suite_reports(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("robustbench_coss.evaluations.show.AT_ONCE", at_once)
    encoder = TinyEncoder().eval()
    with torch.inference_mode():
        local = encoder.local(pictures(3).images)
        found = local_to_global(encoder, local)
        assert found.shape == (3, *local.shape[2:])
        torch.testing.assert_close(found.mean(dim=(1, 2)), cosine_local_global(encoder, local))
        keep = torch.zeros(3, *local.shape[2:], dtype=torch.bool)
        keep[:, 1, 2] = True
        alone = encoder.pool(local, keep=keep)
        expected = torch.cosine_similarity(alone, encoder.pool(local))
    torch.testing.assert_close(found[:, 1, 2], expected)


def test_the_most_representative_position_is_the_one_most_like_the_others() -> None:
    local = torch.zeros(1, 2, 2, 2)
    local[0, :, 0, 0] = torch.tensor([1.0, 0.0])
    local[0, :, 0, 1] = torch.tensor([0.0, 9.0])
    local[0, :, 1, 0] = torch.tensor([0.0, 2.0])
    local[0, :, 1, 1] = torch.tensor([3.0, 4.0])
    # Sums of cosines: 1.6, 2.8, 2.8 and 0.6 + 0.8 + 0.8 + 1 = 3.2.
    assert most_representative(local) == (1, 1)
    expected = torch.tensor([[[0.6, 0.8], [0.8, 1.0]]], dtype=torch.float64)
    torch.testing.assert_close(likeness(local, (1, 1)), expected)


def test_of_equally_representative_positions_the_first_is_chosen() -> None:
    assert most_representative(torch.rand(1, 5, 1, 1).expand(-1, -1, 3, 4)) == (0, 0)


# ---- the sheet ----


def test_the_sheet_has_a_view_of_each_version_with_the_answer_of_the_model() -> None:
    subject, classifier = tiny_classifier()
    pixels = uint8(3)[2:]
    sheet = look(subject.encoder, pixels, classifier=classifier, label=2)
    titles = [view.title.split("\n")[0] for view in sheet.views]
    assert titles == ["original", "gaussian noise", "defocus blur", "fog", "PGD", "PGD"]
    with torch.inference_mode():
        local = subject.encoder.local(pixels.float() / 255)
    assert sheet.views[0].within == pytest.approx(float(cosine_within(local)))
    for view in sheet.views:
        logits = subject(torch.from_numpy(view.image)[None])
        answer = int(logits.argmax())
        assert view.answer == f"kind {answer}"
        assert view.detail == f"{100 * float(logits.softmax(1).max()):.0f} %"
        assert view.held == (answer == 2)
        assert view.likeness[sheet.chosen] == pytest.approx(1)


def test_without_a_label_versions_are_compared_with_the_original() -> None:
    subject, classifier = tiny_classifier()
    views = look(subject.encoder, uint8(), classifier=classifier).views
    assert views[0].held is None
    assert [v.held for v in views[1:]] == [v.answer == views[0].answer for v in views[1:]]
    assert views[-1].held is False  # at 8/255


def test_the_saliency_of_a_chosen_class_is_shown_for_every_version() -> None:
    subject, classifier = tiny_classifier()
    sheet = look(subject.encoder, uint8(), classifier=classifier, explained=4)
    assert sheet.saliency_of == "the logit of kind 4"
    images = torch.from_numpy(np.stack([view.image for view in sheet.views]))
    four = torch.full((len(images),), 4)
    expected = saliency(subject.encoder, images, subject.classifier, four)
    found = torch.from_numpy(np.stack([view.saliency for view in sheet.views]))
    torch.testing.assert_close(found, expected)


def test_without_a_classifier_there_are_no_attacks_and_answers_are_cosines() -> None:
    sheet = look(tiny_subject().encoder, uint8())
    assert len(sheet.views) == 4
    assert sheet.views[0].answer == "cosine 1.000"
    assert sheet.subtitle == "no classifier: neither answers nor attacks"


def test_small_images_are_shown_without_corruptions() -> None:
    sheet = look(TinyEncoder(16).eval(), uint8(size=16))
    assert [view.title for view in sheet.views] == ["original"]
    assert sheet.subtitle.endswith("no corruptions below 32 px")


def test_a_map_of_one_position_is_shown() -> None:
    sheet = look(TinyEncoder(32, stride=32).eval(), uint8())
    assert sheet.chosen == (0, 0)
    assert math.isnan(sheet.views[0].within)
    assert sheet.views[0].local_global.tolist() == [[pytest.approx(1)]]
    assert draw_sheet(sheet)


def test_a_model_that_gives_nan_is_refused() -> None:
    encoder = TinyEncoder().eval()
    nn.init.constant_(encoder.head[0].weight, math.nan)  # type: ignore[arg-type]
    with pytest.raises(CossError, match="NaN or infinite"):
        look(encoder, uint8())


def test_the_same_sheet_gives_the_same_picture() -> None:
    subject, _ = tiny_classifier()
    names = ("$x$", "_", "a" * 90, "two\nlines", "\\frac{", "%")
    classifier = Classifier(subject.classifier, names, "a $test_")
    torch.manual_seed(1)
    first = draw_sheet(look(subject.encoder, uint8(), classifier=classifier, title="$\\no$"))
    torch.manual_seed(2)
    second = draw_sheet(look(subject.encoder, uint8(), classifier=classifier, title="$\\no$"))
    assert first == second
    assert Image.open(io.BytesIO(first)).format == "PNG"


def test_long_names_are_cut_in_one_line() -> None:
    assert shorten("two\nlines") == "two lines"
    assert shorten("abcdefgh", 5) == "abcd…"


# ---- classifiers ----


def test_the_probe_of_the_encoder_is_found_with_the_names_of_its_classes(run: Path) -> None:
    checkpoint, results = load_checkpoint(run), run.parent / "results"
    found = find_classifier(checkpoint, "parts", results=results, data_root=Path("data"))
    assert found is not None
    assert found.classes == open_dataset("parts", "test", size=32).classes
    assert found.about == "linear probe on parts (logistic, 100 images)"
    assert find_classifier(checkpoint, "mnist", results=results, data_root=Path("data")) is None
    dim = checkpoint.encoder.dim
    assert find_probe(results, checkpoint.sha256, dim, None) is not None
    assert find_probe(results, "0" * 64, dim, "parts") is None
    assert find_probe(results, checkpoint.sha256, dim + 1, "parts") is None


def test_of_several_probes_the_one_on_most_images_is_taken_and_damaged_ones_are_passed_over(
    tmp_path: Path,
) -> None:
    encoder = TinyEncoder()
    checkpoint = Checkpoint(encoder.eval(), "tiny", tmp_path / "x", "ab" * 32, {"size": 32})
    data = uint8(60), torch.arange(60) % CLASSES
    roles = [
        ArraySet("elsewhere", role, *data, ("a",) * CLASSES, 32) for role in ("train", "validation")
    ]
    for kind, count in (("logistic", 20), ("logistic", 40), ("simclr", 60)):
        config = ProbeConfig(kind, epochs=1, max_train=count)
        get_probe(checkpoint, *roles, config, results=tmp_path, device=torch.device("cpu"))  # type: ignore[misc]
    probe_path(tmp_path, "damaged").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    found = find_classifier(checkpoint, None, results=tmp_path, data_root=tmp_path)
    assert found is not None
    assert found.about == "linear probe on elsewhere (logistic, 40 images)"
    assert found.classes[:2] == ("class 0", "class 1")  # that data set is not here


@pytest.mark.parametrize(("count", "first"), [(10, SCENES[0]), (6, "class 0")])
def test_a_model_s_own_head_goes_before_any_probe(run: Path, count: int, first: str) -> None:
    head = nn.Linear(32, count)
    own = replace(load_checkpoint(run), head=head, classes=count)
    results = run.parent / "results"
    found = find_classifier(own, "parts", results=results, data_root=Path("data"))
    assert found is not None
    assert found.module is head
    assert (len(found.classes), found.classes[0]) == (count, first)
    assert found.about == "the model's own head"


def test_a_class_is_given_by_name_or_number_and_misspelt_ones_are_explained() -> None:
    classifier = Classifier(nn.Linear(2, 3), ("cat", "dog", "2nd dog"), "")
    assert [classifier.class_of(text) for text in ("dog", "2nd dog", "0", "2")] == [1, 2, 0, 2]
    with pytest.raises(CossError, match="no class 'dig' among 0 … 2; did you mean dog"):
        classifier.class_of("dig")
    with pytest.raises(CossError, match="give its name or its number"):
        classifier.class_of("3")


# ---- the command ----


def test_the_command_writes_a_picture_named_after_run_and_image(
    run: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    show(run, image=photo, results=run.parent / "results")
    show(run, index=3, results=run.parent / "results", out=tmp_path / "deep" / "third.png")
    show(run, index=3, results=tmp_path / "none")
    wide, third, few = (
        Image.open(tmp_path / name)
        for name in ("my-run-photo.png", "deep/third.png", "my-run-3.png")
    )
    assert wide.size == third.size
    assert few.width < third.width  # no attacks without a classifier
    told = capsys.readouterr().out
    assert told.count("wrote ") == 3
    assert "has no probe of this model" in told


def test_wrong_arguments_are_one_clear_line(run: Path, photo: Path, tmp_path: Path) -> None:
    results = run.parent / "results"
    before = photo.read_bytes()
    for words, options in {
        "either --image FILE or --index N": {},
        "and not both": {"image": photo, "index": 1},
        "ends in .png": {"image": photo, "out": tmp_path / "x.jpg"},
        "got --index 2000": {"index": 2000},
        "got --index -1": {"index": -1},
        "unknown dataset 'prats'; did you mean parts": {"image": photo, "dataset": "prats"},
        "did you mean": {"index": 1, "results": results, "explained": SCENES[0][:-1]},
        "--class needs a classifier": {"index": 1, "results": tmp_path, "explained": "1"},
        "is the picture itself": {"image": photo, "out": photo},
    }.items():
        with pytest.raises(CossError, match=words) as caught:
            show(run, **options)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    assert photo.read_bytes() == before
    assert list(tmp_path.iterdir()) == []
