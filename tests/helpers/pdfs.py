"""What tests of PDF share."""

from __future__ import annotations

import pytest
from PIL import ImageFile


def need_weasyprint() -> None:
    """Skip the test where it is missing.

    Its import makes Pillow read truncated pictures in silence, in later tests too: that is undone.
    """
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        pytest.importorskip("weasyprint", exc_type=ImportError)
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
