"""Memory that tensors on a CPU gave back is kept for the next ones.

It changes when pages are handed to the operating system, not what is computed. The setting is the
process's, so only a process of our own makes it: the CLI, and the workers that it starts.
"""

from __future__ import annotations

import ctypes

# Parameters of glibc's mallopt (malloc.h) and the most that it takes for the second.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20


def keep_freed_memory() -> bool:
    """Have the C library hold on to freed blocks of up to 32 MiB.

    By default glibc returns blocks of the size of an activation to the system as soon as they are
    free, and the next step finds every page of its tensors missing.

    Returns:
        whether it was made; elsewhere than on glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc: macOS, musl, Windows
        return False
    kept = mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    never_trim = mallopt(_TRIM_THRESHOLD, -1)
    return bool(kept and never_trim)
