"""Freed memory is kept where the C library can be told so."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from robustbench_coss.machine.allocator import keep_freed_memory

PROGRAM = """
import resource, sys, torch
from robustbench_coss.machine.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory(torch.device("cpu"))
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


def test_nothing_is_changed_for_a_gpu() -> None:
    assert not keep_freed_memory(torch.device("cuda"))
