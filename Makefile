# make demo   a fresh machine: install, then train on the synthetic phantom and report (about 3 minutes)
# make test   a fresh machine: install, then run every test
# make lint   ruff, mypy, import-linter
# make bench  ratios against peers, CPU part
# make mutants  mistakes in the losses, each of which a test must catch (about 25 minutes of one core)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

# pip compiles nothing, so Python has to keep what it compiles: else every process compiles torch
# and MONAI anew, for seven seconds
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint bench mutants clean

# torch first and by its exact version: a bare `torch` would fetch gigabytes of CUDA packages.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/segfocal-train --demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p segfocal
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/losses.py

mutants: $(VENV)/.installed-dev
	$(BIN)/python tests/mutation/mutants.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
