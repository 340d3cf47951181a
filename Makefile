# `make quickstart` and `make test` each work alone on a machine with Python >= 3.11, make and git.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: help quickstart test test-fast lint types docs clean

help:
	@echo "make quickstart   install, pretrain two small models, measure them, print the leaderboard"
	@echo "make test         install, lint, check types, run the tests"
	@echo "make test-fast    the same without the tests that take long"
	@echo "make docs         build the documentation as a site in build/docs"
	@echo "make clean        remove the virtual environments, the site and the quickstart's results"

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

# A process per core, each file of tests in one of them: fixtures of a file are made once.
PYTEST := $(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test: lint types
	$(PYTEST)

test-fast: lint types
	$(PYTEST) -m "not slow and not cluster and not browser"

# In an environment of its own: docs/requirements.txt says why. The package is read, not imported.
.venv-docs/installed: docs/requirements.txt docs/constraints.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --requirement docs/requirements.txt --constraint docs/constraints.txt
	@touch $@

docs: .venv-docs/installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet
	@echo "built; look at it with: $(PYTHON) -m http.server --directory build/docs"

clean:
	rm -rf .venv .venv-docs build/docs runs/quickstart
