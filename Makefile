# `make help` lists what there is. Everything runs in .venv with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# a process a folder: networks trained and served in one process disturb each other's libraries;
# 5 says that a folder holds none of these tests
FOLDERS = set -e; for folder in medkd $$(ls -d tests/*/ | grep -v -e benchmarks -e __pycache__) \
	"$$(ls tests/test_*.py | tr '\n' ' ')"; do \
	$(BIN)/pytest -q -m "$(1)" $(2) $$folder || [ $$? = 5 ]; done
export NO_ALBUMENTATIONS_UPDATE := 1
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.PHONY: help demo test test-data test-slow lint bench ui clean

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

test: lint ## lint, types, architecture and the fast tests
	$(call FOLDERS,not slow and not data)

test-data: .venv/.dev ## tests on real data under $MEDKD_DATA
	$(call FOLDERS,data and not slow)

test-slow: .venv/.dev ## tests that take minutes
	$(call FOLDERS,slow,--timeout 1800)

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
