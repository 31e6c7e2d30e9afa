# Set-up needs Python 3.11+, git and make; everything else is installed into .venv from pinned constraints.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Unit tests share nothing and wait for nothing: one process per core. The others start servers and clusters of their own.
UNIT_TESTS := $(BIN)/python -m pytest tests/unit -q -n logical --maxprocesses 8

.PHONY: help install demo test test-long check format clean
help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hdrfleet needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(STAMP)  ## create .venv with hdrfleet and its development tools

demo: $(STAMP)  ## convert generated photographs and show the result
	$(BIN)/hdrfleet demo

test: $(STAMP)  ## run the tests, with coverage of pipeline/
	$(UNIT_TESTS) -m 'not long' --cov --cov-report=
	$(BIN)/python -m pytest tests/integration tests/chaos tests/gpu -m 'not long' --cov --cov-append --cov-report=term --cov-fail-under=90

test-long: $(STAMP)  ## run the long tiers as well; goes on where it was stopped
	$(UNIT_TESTS)
	HDRFLEET_SOAK_FOLDER=$${HDRFLEET_SOAK_FOLDER:-$(CURDIR)/.cache/test-long/soak} $(BIN)/python -m pytest tests/integration tests/chaos tests/gpu --resume .cache/test-long

check: $(STAMP)  ## format, lint, types, import contracts, cluster files, unit tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/hdrfleet cluster validate ray_cluster.yaml infra
	$(UNIT_TESTS)

format: $(STAMP)  ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove .venv and what the tools left
	rm -rf $(VENV) .cache demo-output .hypothesis .import_linter_cache .pytest_cache .mypy_cache .ruff_cache .coverage* build dist *.egg-info
