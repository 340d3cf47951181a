"""What tests in a browser share."""

from helpers.chromium import browser, site, visit

__all__ = ["browser", "site", "visit"]
