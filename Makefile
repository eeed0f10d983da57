# Everything that is needed is installed into .venv; nothing else on the machine is touched.
# PYTHON may name the interpreter to use; the first of at least 3.10 is found by itself.

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$python && break; \
	done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: help demo test test-fast matrix check format lint types layers docs bench clean

help:
	@echo "make demo    run the whole on this machine: job server, proxy and client;"
	@echo "             ARGS=--stay keeps it up, with its live page"
	@echo "make test    run the tests"
	@echo "make test-fast"
	@echo "             run those that start no processes, in about a minute"
	@echo "make matrix  run the tests over all versions of Python and of what is needed;"
	@echo "             ARGS='-s lowest' names sessions of noxfile.py"
	@echo "make format  format the code, and fix what can be fixed"
	@echo "make check   lint, types, layers, and the tests"
	@echo "make docs    build the documents in build/docs"
	@echo "make bench   compare jobproxy with its peers; takes some minutes"
	@echo "make clean   remove what the others made"

demo: $(VENV)/.run
	@$(BIN)/jobproxy-demo $(ARGS)

test: $(VENV)/.test $(VENV)/.docs
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-fast: $(VENV)/.test
	@$(BIN)/python -m pytest --quiet --ignore tests/processes --numprocesses 2 --dist loadfile

matrix: $(VENV)/.dev
	@$(BIN)/nox $(ARGS)

check: lint types layers test

format: $(VENV)/.lint
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

lint: $(VENV)/.lint
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/towncrier build --draft --version check >/dev/null

types: $(VENV)/.lint $(VENV)/.test $(VENV)/.bench
	@$(BIN)/mypy

layers: $(VENV)/.lint
	@$(BIN)/lint-imports

docs: $(VENV)/.docs
	@$(BIN)/python -m sphinx -W --keep-going -E -q -d build/doctrees docs build/docs
	@echo "The documents are in build/docs/index.html."

bench: $(VENV)/.bench
	@$(BIN)/python benchmarks/compare.py --json build/figures.json
	@$(BIN)/python benchmarks/chart.py build/figures.json docs/figures.svg

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache twisted/plugins/dropin.cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "make: Python 3.10 or newer is needed; none was found" >&2; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON) …"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.made setup.py pyproject.toml
	@$(PIP) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.lint: $(VENV)/.run
	@$(PIP) --editable '.[lint]'
	@touch $@

$(VENV)/.docs: $(VENV)/.run
	@$(PIP) --editable '.[docs]'
	@touch $@

$(VENV)/.bench: $(VENV)/.run
	@mkdir -p build
	@$(PIP) --editable '.[bench]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@$(PIP) --editable '.[dev]'
	@touch $@
