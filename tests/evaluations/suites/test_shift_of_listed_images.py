"""A list of images holds for the test images under other labels, too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.published_sets import WNIDS, imagenet, publish
from torch import Tensor, nn

from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.models.wrap import wrap_module
from robustbench_coss.records.record import Record
from robustbench_coss.test_sets.description import class_map

pytestmark = pytest.mark.filterwarnings("ignore:.*test set:UserWarning")
FEW = WNIDS[5::83]  # twelve, some of which ImageNet-R has
KNOWN = {wnid for wnids in class_map("imagenet-r").values() for wnid in wnids}


class Means(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, len(FEW)))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(1, 2, 3))[:, None] * self.weight


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    imagenet(folder, FEW)
    publish("imagenet-r", folder)
    return folder


def measured(root: Path, out: Path, names: list[str], limit: int | None) -> Record:
    (out / "list.txt").write_text("\n".join(names))
    request = Evaluation(
        "shift",
        dataset="imagenet",
        data_root=root,
        results=out / "results",
        image_list=out / "list.txt",
        limit=limit,
        options={"shift": {"sets": ["imagenet-r"]}},
        device="cpu",
    )
    model = wrap_module(Means(), name="means", size=8, classes=len(FEW))
    (record,) = evaluate_run(lambda: model, request).values()
    return record


@pytest.mark.parametrize("limit", [None, 5])
def test_clean_images_of_the_same_classes_are_among_those_listed(
    root: Path, tmp_path: Path, limit: int | None
) -> None:
    files = sorted((root / "imagenet" / "val").glob("*/*.JPEG"))
    names = [f"{path.parent.name}/{path.name}" for path in files]
    record = measured(root, tmp_path, names[::2], limit)
    wnids = [files[index].parent.name for index in record.index.tolist()]
    assert len(wnids) == (limit or len(names[::2]))
    same = sum(wnid in KNOWN for wnid in wnids)
    assert 0 < same < len(wnids)
    assert record.column("imagenet-r: clean", "correct").shape == (same,)


def test_a_list_without_pictures_of_a_set_is_refused(root: Path, tmp_path: Path) -> None:
    files = (root / "imagenet" / "val").glob("*/*.JPEG")
    beyond = [path.name for path in files if path.parent.name not in KNOWN]
    with pytest.raises(CossError, match=r"list\.txt names no picture that imagenet-r: clean has"):
        measured(root, tmp_path, beyond, None)
