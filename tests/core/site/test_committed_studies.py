"""Every model of the repository's studies has a page: how it came about, and how to measure it."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import ROOT

from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.pages.dossier.models import model_part


@pytest.mark.slow
@pytest.mark.parametrize(
    "study", sorted(p.parent for p in ROOT.glob("results/*/records")), ids=lambda p: p.name
)
def test_every_model_of_a_study_says_how_it_came_about(study: Path) -> None:
    measured = load_measurements(study)
    for label in dict.fromkeys(m.label for m in measured):
        part = model_part(label, [m for m in measured if m.label == label])
        assert "coss-bench eval " in part.commands
