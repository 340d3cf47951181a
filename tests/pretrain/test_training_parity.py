"""The benchmark of training beside lightly's: its pieces, on as little as possible."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ROOT

from robustbench_coss import registry
from robustbench_coss.datasets.base import ArraySet
from robustbench_coss.models.checkpoint import build_encoder
from robustbench_coss.pretrain.methods.base import parse_options
from robustbench_coss.pretrain.views import ViewOptions

METHODS = ["byol", "dino", "mocov3", "simclr"]


@pytest.fixture
def parity(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # type: ignore[no-untyped-call]
    import training_parity

    return training_parity


def small(parity: Any, method: str) -> Any:
    recipe = parity.recipe_for(method, 0, epochs=2, limit=32)
    return recipe.model_copy(update={"batch_size": 16, "width": 1 / 16})


def pixels(count: int) -> torch.Tensor:
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=draws)


@pytest.mark.parametrize("method", METHODS)
def test_lightlys_classes_train_the_encoder_that_is_measured(parity: Any, method: str) -> None:
    recipe = small(parity, method)
    assert recipe.optimizer.name == "sgd"  # what the loop has
    assert recipe.optimizer.clip is None
    start = parity.initial(recipe, 32)
    before = [p.detach().clone() for p in start.parameters()]
    options = parse_options(registry.load("method", method), recipe.options)
    trained, loss = parity.train(recipe, start, options, pixels(32))
    assert (trained is start) == (method != "dino")  # DINO's teacher is a copy
    assert torch.tensor(loss).isfinite()
    assert any(not torch.equal(p, q) for p, q in zip(before, trained.parameters(), strict=True))


@pytest.mark.parametrize("method", ["byol", "simclr"])
def test_both_sides_have_one_loss_where_they_have_the_same_heads(parity: Any, method: str) -> None:
    import lightly_methods

    recipe = small(parity, method)
    kind = registry.load("method", method)
    torch.manual_seed(0)
    ours = kind(build_encoder(recipe.arch, size=32, width=recipe.width, mlp=False), recipe, 10)
    theirs = lightly_methods.METHODS[method](ours.encoder, ours.options)
    theirs.projector.load_state_dict(ours.projector.state_dict())
    if method == "byol":
        theirs.predictor.load_state_dict(ours.predictor.state_dict())
        theirs.teacher.load_state_dict(ours.target_encoder.state_dict())
        theirs.teacher_projector.load_state_dict(ours.target_projector.state_dict())
    views = list(torch.rand(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    constant = 4.0 if method == "byol" else 0.0  # 2 - 2·cos against -2·cos, twice
    expected = theirs.loss(*views, 0) + constant
    torch.testing.assert_close(ours.losses(ours.encode(views))["loss"], expected)


@pytest.mark.parametrize("method", METHODS)
def test_lightlys_views_hold_pixels_in_0_to_1_and_heed_the_recipe(parity: Any, method: str) -> None:
    import lightly_methods

    nothing = ViewOptions(
        min_crop=1.0,
        aspect=1.0,
        flip=0.0,
        jitter=0.0,
        grey=0.0,
        blur=(0.0, 0.0),
        solarize=(0.0, 0.0),
    )
    data = lightly_methods.Pictures(pixels(1), lightly_methods.transform_for(method, 32, nothing))
    image = pixels(1)[0].float() / 255
    whole = [view for _ in range(40) for view in data[0] if view.shape == image.shape]
    assert len(whole) == 80
    # torchvision's crops have a random shape of their own; some are the whole image.
    assert any(torch.allclose(view, image) for view in whole)
    always = nothing.model_copy(update={"solarize": (1.0, 1.0), "grey": 1.0})
    changed = lightly_methods.Pictures(pixels(1), lightly_methods.transform_for(method, 32, always))
    grey = changed[0][0]
    assert torch.equal(grey[0], grey[1])


def run(method: str, side: str, seed: int, linear: float, knn: float) -> dict[str, Any]:
    return {"method": method, "side": side, "seed": seed, "linear": linear, "knn": knn}


def test_the_table_shows_paired_differences_and_names_what_lies_below(parity: Any) -> None:
    runs = [
        *(run("byol", "here", 0, 70.0, 60.0), run("byol", "here", 1, 74.0, 62.0)),
        *(run("byol", "lightly", 0, 71.0, 60.0), run("byol", "lightly", 1, 77.0, 61.0)),
        *(run("simclr", "here", 0, 70.0, 60.0), run("simclr", "lightly", 0, 71.0, 60.0)),
        run("dino", "here", 0, 1.0, 1.0),
    ]
    lines = [line.split() for line in parity.table(runs)]
    # Differences -1 and -3: mean -2, standard error sqrt(2) / sqrt(2) = 1.
    assert lines[1] == ["byol", "linear", "72.00", "74.00", "-2.00", "1.00"]
    assert lines[2] == ["byol", "knn", "61.00", "60.50", "+0.50", "0.50"]
    assert lines[3] == ["simclr", "linear", "70.00", "71.00", "-1.00", "–"]
    assert len(lines) == 5
    assert parity.below(runs) == ["byol"]


def test_runs_are_taken_up_from_the_file_and_others_refused(
    parity: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = {
        role: ArraySet("made", role, pixels(24), torch.arange(24) % 2, ("a", "b"), 32)
        for role in ("train", "validation", "test")
    }
    monkeypatch.setattr(parity, "open_dataset", lambda name, role, **_: images[role])
    made: list[tuple[str, str]] = []

    def trained(side: str, recipe: Any, *_: object) -> Any:
        made.append((recipe.method, side))
        return parity.initial(recipe, 32)

    monkeypatch.setattr(parity, "trained", trained)
    path = tmp_path / "p.json"

    def call(*more: str) -> object:
        words = ["--json", str(path), "--seeds", "0", "--bank", "12", *more]
        monkeypatch.setattr(sys, "argv", ["training_parity.py", *words])
        with pytest.raises(SystemExit) as stop:
            parity.main()
        return stop.value.code

    assert call("--methods", "byol") == 0
    assert made == [("byol", "here"), ("byol", "lightly")]
    assert call("--methods", "byol", "simclr") == 0
    assert made[2:] == [("simclr", "here"), ("simclr", "lightly")]
    assert len(json.loads(path.read_text())["runs"]) == 1 + 4  # with the untrained encoder
    assert "more than 1 point below: none" in capsys.readouterr().out
    assert "other settings" in str(call("--epochs", "9"))
