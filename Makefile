# Set-up needs Python 3.11+, git and make; everything else is installed into .venv from pinned constraints.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Unit tests share nothing and wait for nothing: one process per core. The others start servers and clusters of their own,
# and wait for them most of the time: two processes, file by file.
UNIT_TESTS := $(BIN)/python -m pytest tests/unit -q -n logical --maxprocesses 8
OTHER_TESTS := $(BIN)/python -m pytest tests/integration tests/chaos tests/gpu -n 2 --dist loadfile
# The fuzzer is in no constraints: it has wheels for some versions of Python and some machines only.
ATHERIS := atheris>=3.0,<3.2
FUZZ := .cache/fuzz
FUZZ_S ?= 300
LEFT_OUT := .cache/left-out

.PHONY: help install demo test test-long fuzz check format clean
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
ifndef UNIT_TESTS_DONE
	$(UNIT_TESTS) -m 'not long' --cov --cov-report=
endif
	$(OTHER_TESTS) -m 'not long' --durations 25 --cov --cov-append --cov-report=term --cov-fail-under=90

test-long: $(STAMP)  ## run the long tiers as well, and fuzz; goes on where it was stopped
	@mkdir -p .cache && rm -f $(LEFT_OUT)
	HDRFLEET_SIMULATED_JOBS=$${HDRFLEET_SIMULATED_JOBS:-20000} $(UNIT_TESTS) --left-out $(LEFT_OUT)
	HDRFLEET_SOAK_FOLDER=$${HDRFLEET_SOAK_FOLDER:-$(CURDIR)/.cache/test-long/soak} $(OTHER_TESTS) --durations 50 --resume .cache/test-long --left-out $(LEFT_OUT)
	$(MAKE) fuzz
	@if [ -s $(LEFT_OUT) ]; then echo 'test-long passed, but for what was left out:'; cat $(LEFT_OUT); else echo 'test-long passed, nothing was left out'; fi

fuzz: $(STAMP)  ## look for faults of the decoder by coverage, for FUZZ_S seconds (300)
	@mkdir -p $(FUZZ)/corpus
	@if [ -d $(FUZZ)/env/atheris ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --only-binary :all: --target $(FUZZ)/env '$(ATHERIS)'; \
	then PYTHONPATH=$(FUZZ)/env:.:tests/unit/codecs $(BIN)/python tests/fuzz/atheris_decode.py $(FUZZ)/corpus \
		-artifact_prefix=$(FUZZ)/ -max_total_time=$(FUZZ_S) -max_len=8000 -timeout=60 -rss_limit_mb=4096 -verbosity=0; \
	else echo 'fuzz: skipped, for there is no wheel of $(ATHERIS) for this Python and machine' | tee -a $(LEFT_OUT); fi

check: $(STAMP)  ## format, lint, types, import contracts, cluster files, unit tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/hdrfleet cluster validate ray_cluster.yaml infra
	$(UNIT_TESTS) -m 'not long' $(UNIT_COVERAGE)

format: $(STAMP)  ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove .venv and what the tools left
	rm -rf $(VENV) .cache demo-output .hypothesis .import_linter_cache .pytest_cache .mypy_cache .ruff_cache .coverage* build dist *.egg-info
