"""The leaderboard as a folder of web pages that open from disk. It reads records only.

`data` says what the pages show, `plots` draws, `pages` writes the folder; the words and the look
are in `templates/`.
"""

from robustbench_coss.pages.site.pages import write_site

__all__ = ["write_site"]
