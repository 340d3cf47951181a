"""Class folders named by numbers: a classifier that is right scores 100 %, not 16.7."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import robustbench_coss

COUNT = 12  # sorted as text, 0 1 10 11 2 … 9: only 0 and 1 of twelve are in their places


class Reads(nn.Module):
    """Answers with the number that a picture's shade stands for, counted as numbers are."""

    def forward(self, x: Tensor) -> Tensor:
        shade = (255 * x.mean(dim=(1, 2, 3)) / 20).round().long()
        return nn.functional.one_hot(shade.clamp(0, COUNT - 1), COUNT).float()


@pytest.mark.parametrize("names", ["{}", "class{}", "{:03}"])
def test_a_right_classifier_scores_all_on_numbered_folders(tmp_path: Path, names: str) -> None:
    for role in ("train", "val"):
        for number in range(COUNT):
            folder = tmp_path / role / names.format(number)
            folder.mkdir(parents=True)
            for k in range(2):
                shade = np.full((32, 32, 3), 20 * number, np.uint8)
                Image.fromarray(shade).save(folder / f"{k}.png")
    request = robustbench_coss.Evaluation(
        "crop", dataset="imagefolder", data_root=tmp_path, results=tmp_path / "r", device="cpu",
        options={"crop": {"areas": [0.5]}},
    )  # fmt: skip
    cells = robustbench_coss.evaluate(Reads(), request, size=32, mean=(0, 0, 0), std=(1, 1, 1))
    for done in cells:
        assert float(torch.from_numpy(done.cell.outcomes["correct"]).float().mean()) == 1.0
