"""`coss-bench show`: pictures are read as data sets read them, maps agree with the suites."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.shown import tiny_classifier
from PIL import Image
from torch import Tensor, nn

from robustbench_coss.datasets.pictures import PictureSet
from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.protocol import Condition
from robustbench_coss.evaluations.show import (
    BUDGETS,
    CORRUPTIONS,
    SEVERITY,
    attacked,
    corrupted,
    likeness,
    local_to_global,
    most_representative,
    read_image,
    saliency,
)
from robustbench_coss.evaluations.suites.corruption import Corruption
from robustbench_coss.evaluations.suites.similarity import cosine_local_global
from robustbench_coss.testing import TinyEncoder, pictures

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


def test_a_picture_is_seen_as_it_is_stored_as_by_an_evaluation(tmp_path: Path) -> None:
    levels = np.zeros((32, 32, 3), np.uint8)
    levels[:4] = 255  # bright at the top as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # the top as stored is the right-hand side as seen
    Image.fromarray(levels).save(tmp_path / "turned.png", exif=exif)
    found = read_image(tmp_path / "turned.png", 32)[0, 0]
    assert bool((found[:4] == 255).all() and (found[4:] == 0).all())


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
        ("folder", "a folder, not a regular file"),
        ("truncated", "copy it again"),
        ("text", "none of JPEG"),
        ("empty", "none of JPEG"),
        ("postscript", "none of JPEG"),
    ],
)
def test_what_is_no_picture_is_one_clear_line(
    tmp_path: Path, photo: Path, kind: str, words: str
) -> None:
    with pytest.raises(CossError, match=words) as caught:
        read_image(damaged(kind, photo, tmp_path), 32)
    assert "\n" not in str(caught.value)


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


def test_similarities_to_the_global_average_to_what_the_suite_reports() -> None:
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
