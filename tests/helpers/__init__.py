"""What tests of several areas share; nothing here is a test."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
