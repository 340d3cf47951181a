"""Freed memory is kept where the C library can be told so, and the process is our own."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys, torch
from robustbench_coss.machine.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
# Each block is larger than all before it, which glibc by default always fetches from the system.
for i in range(100):
    torch.zeros((2 << 18) + (i << 14))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


PAGE = 4096


def page_faults(mode: str) -> int:
    """Page faults of writing a hundred blocks one after the other, in a process of its own."""
    arguments = [sys.executable, "-c", PROGRAM, mode]
    return int(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    sizes = [4 * ((2 << 18) + (i << 14)) for i in range(100)]
    assert page_faults("given back") > sum(sizes) / PAGE / 2
    assert page_faults("kept") < sum(sizes) / PAGE / 10


# What is run with `asked` holding the names that were looked up in C libraries.
WATCHED = """
import sys
from pathlib import Path
asked = []
sys.addaudithook(lambda event, args: asked.append(args[1]) if event == "ctypes.dlsym" else None)
"""

EVALUATE = """
from torch import nn
import robustbench_coss
from robustbench_coss.datasets import parts
parts.COUNTS.update(train=200, validation=40, test=60)
model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))
asked_for = robustbench_coss.Evaluation(
    "crop", dataset="parts", results=Path(sys.argv[1]), device="cpu", limit=30
)
assert list(robustbench_coss.evaluate(model, asked_for, name="a model"))
"""

COMMAND = """
from robustbench_coss.cli import main
sys.argv = ["coss-bench", "--version"]
try:
    main()
except SystemExit:
    pass
"""


@pytest.mark.parametrize(("program", "changed"), [(EVALUATE, False), (COMMAND, True)])
def test_the_command_line_tells_the_c_library_and_evaluate_does_not(
    program: str, changed: bool, tmp_path: Path
) -> None:
    text = WATCHED + program + 'print("mallopt" in asked)'
    arguments = [sys.executable, "-c", text, str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(changed)
