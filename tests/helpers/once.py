"""What hundreds of tests would make anew and the same each time, made once per process."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer.main
from matplotlib.backends import _backend_pdf_ps as pdf_fonts

from robustbench_coss.datasets.base import ArraySet
from robustbench_coss.datasets.parts import COUNTS, PartsSource


def work_once(patch: pytest.MonkeyPatch) -> None:
    """The parser of the command line, generated pictures, the parts of fonts that a PDF holds, the
    first weights of large layers.

    Nor is it waited for the disk: no test cuts the power.
    """
    patch.setattr(typer.main, "get_command", cache(typer.main.get_command))
    patch.setattr(os, "fsync", lambda _: None)
    _draw_once(patch)
    _cut_fonts_once(patch)
    _repeat_weights(patch)


def _draw_once(patch: pytest.MonkeyPatch) -> None:
    draw = PartsSource.open

    @lru_cache(maxsize=24)
    def drawn(source: PartsSource, role: str, size: int, _: int) -> ArraySet:
        return draw(source, role, size, Path(), False)

    def opened(source: PartsSource, role: str, size: int, root: Path, download: bool) -> ArraySet:
        images = copy.copy(drawn(source, role, size, COUNTS[role]))
        images.pixels, images.labels = images.pixels.clone(), images.labels.clone()
        return images

    patch.setattr(PartsSource, "open", opened)


def _cut_fonts_once(patch: pytest.MonkeyPatch) -> None:
    """A font cut down to some glyphs, with its bytes in the place of the parsed font."""
    cut, as_file = pdf_fonts.get_glyphs_subset, pdf_fonts.font_as_file

    @lru_cache(maxsize=512)
    def known(font: Any, glyphs: frozenset[int]) -> Any:
        with cut(font, set(glyphs)) as subset:
            content = as_file(subset.font).getvalue()
            return SimpleNamespace(font=content, glyph_index_map=dict(subset.glyph_index_map))

    def glyphs_of(font: Any, glyphs: Collection[int]) -> AbstractContextManager[Any]:
        return nullcontext(known(font, frozenset(glyphs)))

    patch.setattr(pdf_fonts, "get_glyphs_subset", glyphs_of)
    patch.setattr(pdf_fonts, "font_as_file", io.BytesIO)


def _repeat_weights(patch: pytest.MonkeyPatch) -> None:
    """Random weights of a layer beyond so many are those before again; others mostly replace them.

    The number is a prime: no two rows are the same. Methods of Tensor stay what they are, which
    attacks compare theirs with.
    """
    many = 65_521
    for name in ("uniform_", "normal_"):
        draw = getattr(torch.Tensor, name)

        def filled(x: Any, *how: Any, draw: Any = draw, **more: Any) -> Any:
            if x.numel() < 2 * many or not x.is_contiguous():
                return draw(x, *how, **more)
            first, *rest = x.view(-1).split(many)
            draw(first, *how, **more)
            for part in rest:
                part.copy_(first[: len(part)])
            return x

        patch.setattr(torch.nn.Parameter, name, filled, raising=False)
