"""Takes the screenshots of the documentation, from the study on Fashion-MNIST, with Chromium.

`python docs/make_screenshots.py` brings them up to date. Each holds the hash of what its page is
made of, by which a test finds that it is stale.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from robustbench_coss.pages.report.page import make_page
from robustbench_coss.pages.site import write_site

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
STUDY = ROOT / "results" / "fashion-mnist"
TEMPLATES = ROOT / "robustbench_coss" / "pages" / "templates"
KEY = "Shows"
WIDTH, HEIGHT = 1400, 900
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


MADE_OF = {
    "site.png": ("theme.css", "site.css", "site_*.html", "site*.js"),
    "report.png": ("theme.css", "report.html", "report.css"),
}
"""Name of a picture -> templates of its page."""


def mark(name: str) -> str:
    """The hash of what a picture's page is made of: templates and numbers."""
    found = sorted({path for pattern in MADE_OF[name] for path in TEMPLATES.glob(pattern)})
    content = b"\0".join(path.read_bytes() for path in [*found, STUDY / "leaderboard.csv"])
    return hashlib.sha256(content).hexdigest()


def pages(folder: Path) -> dict[str, Path]:
    """Name of a picture -> its page, written to a folder."""
    report = folder / "report.html"
    report.write_text(make_page(STUDY, ["byol-s0"]), encoding="utf-8")
    return {"site.png": write_site(STUDY, folder / "site"), "report.png": report}


def main() -> None:
    """Take them all."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play, tempfile.TemporaryDirectory() as folder:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=SWITCHES)
        for name, page in pages(Path(folder)).items():
            tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            tab.goto(page.as_uri())
            picture = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
            info = PngInfo()
            info.add_text(KEY, mark(name))
            picture.quantize(128).save(IMAGES / name, optimize=True, pnginfo=info)
        browser.close()


if __name__ == "__main__":
    main()
