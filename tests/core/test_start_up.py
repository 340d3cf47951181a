"""Commands that read records do without what only models need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import simulate


@pytest.mark.slow
@pytest.mark.parametrize("command", ["leaderboard", "compare", "claims", "site"])
def test_tables_load_no_torch(command: str) -> None:
    program = (
        "import importlib, sys\n"
        f"importlib.import_module('robustbench_coss.cli.{command}')\n"
        "import robustbench_coss.analysis.configurations, robustbench_coss.tables.leaderboard\n"
        "import robustbench_coss.claims.questions\n"
        "print(*(m for m in ('torch', 'scipy.stats', 'matplotlib') if m in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "", done.stderr


def test_names_are_listed_without_what_they_stand_for() -> None:
    program = (
        "import sys\n"
        "from robustbench_coss.cli.list import Kind, list_\n"
        "list_(list(Kind))\n"
        "print(*(m for m in ('torch', 'scipy.stats', 'matplotlib') if m in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "Name the class of one augmented view." in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == ""


def test_a_report_loads_no_torch(tmp_path: Path) -> None:
    record = simulate.clean(0.5)
    record.about = {"title": "Clean"}  # without, the suite is asked
    simulate.save(tmp_path, record)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from robustbench_coss.pages.report.page import make_page\n"
        "make_page(Path(sys.argv[1]), [], full=True)\n"
        "print(*(m for m in ('torch', 'scipy.stats') if m in sys.modules))\n"
    )
    words = [sys.executable, "-c", program, tmp_path]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_measuring_loads_no_library_that_our_own_models_do_without() -> None:
    others = ("torchvision", "timm", "lightly", "pytorch_lightning", "transformers", "torchattacks")
    others += ("torch._dynamo",)
    program = (
        "import sys\n"
        "import robustbench_coss.cli.measure, robustbench_coss.evaluations.suites.clean\n"
        "from robustbench_coss.models.checkpoint import build_encoder\n"
        "import torch\n"
        "with torch.device('meta'):\n"
        "    build_encoder('rf9_resnet18', size=32, width=0.125)\n"
        f"print(*(m for m in {others} if m in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
