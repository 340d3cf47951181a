# `make quickstart` and `make test` each work alone on a machine with Python >= 3.11, make and git.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: help quickstart test lint types clean

help:
	@echo "make quickstart   install, pretrain two small models, measure them, print the leaderboard"
	@echo "make test         install, lint, check types, run the tests"
	@echo "make clean        remove the virtual environment and the quickstart's results"

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable '.[dev]' --constraint constraints.txt
	@touch $@

quickstart: $(INSTALLED)
	$(BIN)/coss-bench quickstart

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

test: lint types
	$(BIN)/pytest

clean:
	rm -rf .venv runs/quickstart
