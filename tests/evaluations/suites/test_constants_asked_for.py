"""Corruptions are as strong as was asked for, whatever the size of the images would suggest."""

from __future__ import annotations

import pytest
import torch

from robustbench_coss.evaluations.corruptions.fast import corrupt
from robustbench_coss.evaluations.corruptions.fast.constants import CONSTANT_SETS
from robustbench_coss.evaluations.corruptions.fast.draws import sample_keys
from robustbench_coss.evaluations.protocol import Condition
from robustbench_coss.evaluations.suites.corruption import Corruption
from robustbench_coss.testing import pictures


@pytest.mark.parametrize("constants", CONSTANT_SETS)
def test_the_constants_asked_for_are_used(constants: str) -> None:
    batch, suite = pictures(3), Corruption(constants=constants)
    seen = []
    for name in ("gaussian_noise", "contrast", "pixelate"):
        condition = Condition(f"{name}@4", "noise", 4.0, kind=name)
        keys = sample_keys(batch.index, 7, "corruption", condition.name)
        found = suite.corrupt(batch.images, batch.index, condition, 7)
        expected = {c: corrupt(batch.images, name, 4, keys, c) for c in CONSTANT_SETS}
        assert torch.equal(found, expected[constants])
        seen.append(torch.equal(expected["imagenet-c"], expected["cifar-c"]))
    assert not any(seen)
    assert suite.config()["constants"] == constants
