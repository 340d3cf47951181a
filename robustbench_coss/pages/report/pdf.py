"""A report's page printed as PDF by WeasyPrint, the optional extra `report`."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib
from PIL import ImageFile

from robustbench_coss.errors import CossError
from robustbench_coss.files import scratch_folder

FONTS = {
    "DejaVu Sans": {"normal 400": "DejaVuSans", "normal 700": "DejaVuSans-Bold"},
    "DejaVu Sans Mono": {"normal 400": "DejaVuSansMono"},
    "STIXGeneral": {
        "normal 400": "STIXGeneral",
        "normal 700": "STIXGeneralBol",
        "italic 400": "STIXGeneralItalic",
    },
}
"""Those that matplotlib brings, so that a report looks the same everywhere, figures included."""

PACKAGES = "libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0"


def to_pdf(page: str) -> bytes:
    """A page of `report.page.make_page` as tagged PDF, A4; the same page gives the same bytes.

    Raises:
        CossError: WeasyPrint or a library that it loads is missing; says what to install.
    """
    truncated_allowed = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        import weasyprint
        from weasyprint.text.fonts import FontConfiguration
    except ImportError as error:
        raise CossError(
            "PDF needs WeasyPrint; install it with `pip install 'robustbench-coss[report]'`"
        ) from error
    except OSError as error:
        raise CossError(
            f"PDF needs libraries that WeasyPrint could not load; install them, on Debian and "
            f"Ubuntu with `apt-get install {PACKAGES}`"
        ) from error
    finally:
        # Importing WeasyPrint makes Pillow read damaged images in silence, in the whole process.
        ImageFile.LOAD_TRUNCATED_IMAGES = truncated_allowed
    for name in ("weasyprint", "fontTools"):
        logging.getLogger(name).setLevel(logging.ERROR)
    paper = (
        files("robustbench_coss.pages").joinpath("templates", "report-paper.css").read_text("utf-8")
    )
    # After the page's own style, which it overrides.
    page = page.replace("</head>", f"<style>\n{_faces()}{paper}</style>\n</head>", 1)
    document = weasyprint.HTML(string=page, url_fetcher=_fonts_only())
    with scratch_folder("coss-pdf-") as folder, _temporary_files_in(folder):
        fonts = FontConfiguration()  # keeps copies of them in files
        # By this it is known again: the generator stands in a compressed stream.
        return bytes(
            document.write_pdf(font_config=fonts, pdf_identifier=b"robustbench-coss", pdf_tags=True)
        )


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Where other libraries put theirs: a killed process leaves none that stays."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _folder() -> Path:
    return Path(matplotlib.get_data_path(), "fonts", "ttf")


def _faces() -> str:
    rules = []
    for family, faces in FONTS.items():
        for face, file in faces.items():
            style, weight = face.split()
            rules.append(
                f"@font-face {{ font-family: '{family}'; font-style: {style}; "
                f"font-weight: {weight}; src: url('{(_folder() / file).as_uri()}.ttf'); }}"
            )
    return "\n".join(rules) + "\n"


def _fonts_only() -> Any:
    """What WeasyPrint opens files with: fonts of matplotlib, and what stands in the page itself."""
    from weasyprint.urls import URLFetcher

    class FontsOnly(URLFetcher):  # type: ignore[misc]
        def fetch(self, url: str, headers: Any = None) -> Any:
            if not url.startswith(("data:", _folder().as_uri() + "/")):
                raise ValueError(f"a report opens no other file: {url}")
            return super().fetch(url, headers)

    return FontsOnly(allowed_protocols=("data", "file"), allow_redirects=False)
