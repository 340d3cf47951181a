"""Figures as SVG that stands inside a page: sharp, with text as text, and no clashing names."""

from __future__ import annotations

import io
import re

from markupsafe import Markup, escape
from matplotlib.figure import Figure

from robustbench_coss.figures.styles import styled

# Text stays text; names in the file depend on the figure alone, not on the process.
_SVG = {"svg.fonttype": "none", "svg.hashsalt": "robustbench-coss"}
_UNDATED = {"Date": None, "Creator": None, "Format": None, "Type": None}


def inline(figure: Figure, prefix: str, title: str) -> Markup:
    """A figure as an `<svg>` element as wide as what it stands in.

    Several of them share the names of one page, so every id gets the prefix; styles, which would
    hold for the whole page, are left to the page's style sheet.

    Args:
        prefix: unique in the page; letters, digits and hyphens.
        title: what the figure shows, for those who cannot see it.
    """
    buffer = io.StringIO()
    with styled(more=_SVG):
        figure.savefig(buffer, format="svg", metadata=_UNDATED)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'href="#', f'href="#{prefix}-', text)
    text = re.sub(r"url\(#", f"url(#{prefix}-", text)
    opening = text[: text.index(">")]
    box = re.search(r'viewBox="[^"]*"', opening)
    assert box is not None  # matplotlib always writes one
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    head = f'<svg {names} {box[0]} role="img"><title>{escape(title)}</title>'
    return Markup(head + text[text.index(">") + 1 :].rstrip())
