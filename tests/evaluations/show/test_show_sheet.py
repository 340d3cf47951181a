"""The sheet of `coss-bench show`: versions, answers and maps."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from helpers.shown import tiny_classifier, uint8
from PIL import Image
from torch import nn

from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.show import (
    Classifier,
    look,
    saliency,
)
from robustbench_coss.evaluations.suites.similarity import cosine_within
from robustbench_coss.figures.one_image import draw_sheet, shorten
from robustbench_coss.testing import TinyEncoder, tiny_subject


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
        shares = logits.softmax(1)[0].tolist()
        said = ["< 0.5 %" if share < 0.005 else f"{100 * share:.0f} %" for share in shares]
        right = "" if answer == 2 else f"; right class {said[2]}"
        assert view.detail == said[answer] + right
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


@pytest.mark.slow
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
