"""NumPy's files, of strangers as well: whatever numpy says of one that is damaged is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robustbench_coss.errors import CossError, explain_os_errors, one_line
from robustbench_coss.reading import check_regular


def read_array(path: Path, key: str = "", mmap_mode: Literal["r"] | None = None) -> NDArray[Any]:
    """An array of a .npy file, or of a key of a .npz file; never a pickle, which executes code.

    Raises:
        CossError: there is no such file, or it or the key does not hold an array.
    """
    check_regular(path)
    with explain_os_errors("read", path):
        try:
            found = np.load(path, mmap_mode, allow_pickle=False)
            return np.asarray(found[key] if key else found[...])
        except OSError:
            raise
        except Exception as error:  # numpy reads the header as Python, which has many kinds
            reason = one_line(error)
            raise CossError(f"{path} is damaged ({reason}); download it again") from error
