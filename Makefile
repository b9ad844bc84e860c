# `make demo` and `make test` work on a fresh clone: they need Python ≥ 3.11, pip and make, nothing else.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# For example PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu" for a small torch.
PIP_FLAGS ?=
# Modules are compiled when they are first imported, and kept: most of what is installed never is.
unexport PYTHONDONTWRITEBYTECODE
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt $(PIP_FLAGS)
INPUTS := pyproject.toml constraints.txt requirements-demo.txt

.PHONY: help demo test lint types check bench bench-list clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.demo  ## rank prompts and models for two datasets, and draw the map, into fute-demo/
	$(BIN)/fute demo

test: $(VENV)/.dev  ## run the tests, two files at a time
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

lint: $(VENV)/.dev  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## mypy, strict
	$(BIN)/mypy

check: lint types test  ## all of them: what continuous integration runs

bench: $(VENV)/.dev  ## measure one figure: make -s bench NAME=label-plain
	@$(BIN)/python -m benchmarks $(NAME)

bench-list: $(VENV)/.dev  ## list the figures
	@$(BIN)/python -m benchmarks --list

clean:  ## remove the environment and what tools left
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python $(INPUTS)
	$(PIP) -e '.[demo]'
	$(PIP) --no-deps -r requirements-demo.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) -e '.[all,demo,dev]'
	@touch $@
