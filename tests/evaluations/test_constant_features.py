"""The probe on features that say nothing."""

from __future__ import annotations

import torch

from robustbench_coss.evaluations.probes import logistic


def test_features_that_do_not_vary_give_how_often_classes_occur() -> None:
    labels = torch.tensor([0] * 25 + [1] * 10 + [2] * 5)
    train, validation = (torch.ones(40, 5), labels), (torch.ones(10, 5), labels[:10])
    found = logistic.fit(train, validation, 3, 30, torch.device("cpu"))
    assert not found.weight.any()
    shares = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)  # 25 + 10, 10 and 5 of 50
    torch.testing.assert_close(found.bias.softmax(0), shares, atol=1e-3, rtol=0)
