# Each target sets up what it needs in .venv; a second call finds it there.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
RELAY := $(wildcard pgcat_cluster/relay/*.py pgcat_cluster/relay/*.pyx pgcat_cluster/relay/*.pxd)
PYTEST := $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile
COUNTS := .venv/.counts.json

.PHONY: help setup demo test check live sim bench bench-fleet fmt map clean

help: # Print this list.
	@sed -n 's/^\([a-z-]*\):[^#]*# \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: .venv/.built # Prepare .venv and compile the data plane, where there is a C compiler.

.venv/.installed: pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3"; exit 1; }
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv .venv
	@echo "installing into .venv"
	@# Compiling is left to the next rule, so that it is done once.
	@PGCAT_PURE=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
		--editable '.[test,dev]'
	@touch $@

.venv/.built: .venv/.installed setup.py $(RELAY)
	@echo "compiling the data plane"
	@$(BIN)/python setup.py --quiet build_ext --inplace --parallel 2
	@touch $@

demo: setup # Start etcd, a primary, two replicas, three nodes on port 6432. ARGUMENTS="--nodes 5" passes options on.
	@$(BIN)/pgcat-cluster demo $(ARGUMENTS)

# The last line counts both runs. The second leaves out what is marked `once`.
test: setup # Run all tests but the long ones: on the compiled data plane, then on the interpreted one.
	@status=0; \
	$(PYTEST) --counts-to=$(COUNTS) || status=$$?; \
	PGCAT_PURE=1 $(PYTEST) --counts-from=$(COUNTS) || status=$$?; \
	exit $$status

check: setup # Lint, types, import contracts and the tidy tests.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest --quiet tests/unit/test_tidy.py

live: setup # Run the long forms, which `make test` leaves out; what became of them is in tests/live/results.
	@$(BIN)/python -m pytest --long -m "live_long or docker" --record tests/live/results/long.json tests

sim: setup # Simulate fleets for a million steps. ARGUMENTS="--seed 7 --seeds 1" repeats one run.
	@$(BIN)/python -m tests.simulation $(ARGUMENTS)

bench: setup # Measure beside PostgreSQL and, where it is on PATH, PgBouncer.
	@$(BIN)/python -m tests.bench $(ARGUMENTS)

bench-fleet: setup # Measure a fleet of eight: a server dies, an edit, peace. ARGUMENTS="--quick" is a short trial.
	@$(BIN)/python -m tests.bench.fleet $(ARGUMENTS)

fmt: setup # Format the code and mend what can be mended.
	@$(BIN)/ruff check --fix --exit-zero --quiet .
	@$(BIN)/ruff format .

map: # Print every module with its responsibility.
	@$(PYTHON) -m tests.support.house

clean: # Remove .venv and everything that was built.
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@rm -f pgcat_cluster/relay/*.so pgcat_cluster/relay/*.c
	@find . -name __pycache__ -prune -exec rm -rf {} +
