"""`force` trains the probe anew as well, in this process and in others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.toy_suite import measure

from robustbench_coss.evaluations.probes import linear
from robustbench_coss.machine.executors import in_process


@pytest.mark.parametrize("executor", [None, in_process])
def test_a_forced_evaluation_trains_its_probe_again(
    run: Path, executor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    real = linear.fit_probe

    def noted(*given: Any) -> Any:
        trained.append(given)
        return real(*given)

    monkeypatch.setattr(linear, "fit_probe", noted)
    for force, count in ((False, 1), (False, 1), (True, 2), (False, 2)):
        measure(run, force=force, executor=executor, limit=20)
        assert len(trained) == count, force
