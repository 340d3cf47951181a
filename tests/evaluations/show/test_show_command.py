"""`coss-bench show`: which classifier answers, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.shown import uint8
from PIL import Image
from torch import nn

from robustbench_coss.cli.show import show
from robustbench_coss.datasets.base import ArraySet, open_dataset
from robustbench_coss.datasets.parts import CLASSES as SCENES
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes.linear import ProbeConfig, get_probe, probe_path
from robustbench_coss.evaluations.show import (
    Classifier,
    find_classifier,
    find_probe,
)
from robustbench_coss.models.checkpoint import (
    Checkpoint,
    build_encoder,
    load_checkpoint,
    save_encoder,
)
from robustbench_coss.testing import CLASSES, TinyEncoder


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
