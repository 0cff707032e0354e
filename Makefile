# `make help` lists what there is. Everything runs in .venv with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# a process a core, each on one thread: they get more done than one process on all cores
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n logical --dist loadfile
export NO_ALBUMENTATIONS_UPDATE := 1
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-ci lint bench ui clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/bin/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "medkd needs Python 3.11 or newer"'
	$(PYTHON) -m venv .venv

.venv/.train: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[train]'
	@touch $@

.venv/.dev: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[train,dev]'
	@touch .venv/.train $@

demo: .venv/.train ## a whole study on synthetic cases, in minutes, without data
	$(BIN)/python pipelines/segmentation.py configs/phantom_3d.yaml

test: lint ## lint, types, architecture and the fast tests; with $MEDKD_DATA those on real data too
	$(PYTEST) -m "not slow"

test-slow: .venv/.dev ## tests that take minutes each, an hour on two cores
	$(PYTEST) -m slow --timeout 1800

test-ci: .venv/.dev ## of the slow ones those of README and report
	$(PYTEST) -m slow --timeout 1800 tests/test_readme.py tests/report

lint: .venv/.dev ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.dev ## measure against named peers
	$(BIN)/pytest -q -s tests/benchmarks --timeout 3600

ui: .venv/.train ## open the MLflow UI on the studies of this folder
	$(BIN)/medkd ui

clean: ## remove the virtual environment; studies stay
	rm -rf .venv
