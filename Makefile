# Two commands do everything on a machine that has Python >= 3.11 and make: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint clean

demo: $(VENV)/installed  ## Install, and run the main job on simulated tomograms
	$(BIN)/cryoclass demo --overwrite

test: $(VENV)/installed-test  ## Install with the test extra, and run the tests
	$(BIN)/python -m pytest

lint: $(VENV)/installed-test  ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cryoclass needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Use make PYTHON=python3.12, for example.")'
	$(PYTHON) -m venv $(VENV)

# What CI ran; make CONSTRAINTS= takes the newest versions instead.
CONSTRAINTS ?= --constraint constraints.txt

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) Demo
