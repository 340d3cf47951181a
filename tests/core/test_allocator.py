"""Freed memory is kept where the C library can be told so, and the process is our own."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = 4096
SIZES = [(2 << 18) + (i << 14) for i in range(200)]
"""Floats of blocks, each larger than all before it, which glibc always fetches from the system."""

PROGRAM = f"""
import resource, torch
from robustbench_coss.machine.allocator import keep_freed_memory
def page_faults(sizes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in sizes:
        torch.zeros(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(page_faults({SIZES[:100]}))
assert keep_freed_memory()
print(page_faults({SIZES[100:]}))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    """In a process of its own: what a C library was told stays."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    given_back, kept = map(int, done.stdout.split())
    assert given_back > 4 * sum(SIZES[:100]) / PAGE / 2
    assert kept < 4 * sum(SIZES[100:]) / PAGE / 10


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
