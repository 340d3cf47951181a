"""What tests of several areas share; nothing here is a test."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FEW = {"train": 400, "validation": 40, "test": 200}
"""So many generated pictures there are for tests that ask for `few_pictures`."""
