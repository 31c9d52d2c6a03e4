# One command per wish. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WEARABLE_HOME ?= data
export WEARABLE_HOME
export DAGSTER_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1
export AWS_EC2_METADATA_DISABLED := true

.PHONY: help setup demo ui test lint types unit check-defs marts faults bench render lock wheel clean

help: ## This list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready ## Create the environment

# Bytecode is compiled at install: without it every start of Dagster costs seconds more.
$(VENV)/.ready: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --python $(BIN)/python --editable . pip uv
	touch $@

demo: setup ## Sandbox, people, history, a live poll, deliveries, and what came of it
	$(BIN)/wearable-pipeline demo

ui: setup ## The Dagster UI and daemon on the same state
	$(BIN)/wearable-pipeline ui

test: setup lint types unit check-defs ## Everything: lint, types, every test

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# Four on two cores: tests that wait for a clock or a server leave theirs to others. On frames as small as
# those of tests, more threads only wait for one another.
unit: setup
	POLARS_MAX_THREADS=1 $(BIN)/pytest -n 4 --dist loadgroup $(PYTEST_ARGS)

check-defs: setup
	home=$$(mktemp -d); cp dagster.yaml $$home/; DAGSTER_HOME=$$home VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/dg check defs

marts: setup ## Build views and marts over the lake with dbt
	WEARABLE_HOME=$(abspath $(WEARABLE_HOME)) $(BIN)/dbt build --project-dir dbt_project --profiles-dir dbt_project

faults: setup ## Longer kill and fault runs
	WEARABLE_TEST_KILLS=50 WEARABLE_TEST_READING_SECONDS=25 \
		$(BIN)/pytest -n 2 wearable_pipeline_tests/faults $(PYTEST_ARGS)
	WEARABLE_TEST_KILLS=20 WEARABLE_TEST_READING_SECONDS=25 WEARABLE_TEST_HISTORY_DAYS=90 \
		WEARABLE_TEST_EXAMPLES=10 $(BIN)/pytest -n 2 $(PYTEST_ARGS) \
		wearable_pipeline_tests/destinations/test_faults.py wearable_pipeline_tests/lake/test_compact.py \
		wearable_pipeline_tests/lake/test_repartition.py wearable_pipeline_tests/providers/test_lifecycle.py \
		wearable_pipeline_tests/model/test_payload.py wearable_pipeline_tests/raw/test_seen.py \
		wearable_pipeline_tests/tables/test_parse.py wearable_pipeline_tests/tables/test_patterns.py

bench: setup ## Measure; TOPICS="normalize query" for some, BENCH_ARGS=--short for the short form
	$(BIN)/python -m wearable_pipeline_tests.bench $(TOPICS) --docs $(BENCH_ARGS)

render: setup ## Write the documents made from the code
	$(BIN)/python -m wearable_pipeline.model.render

lock: ## Resolve requirements.lock again
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
		--no-header --no-annotate --output-file requirements.lock

wheel: setup ## Build the wheel into dist/
	$(BIN)/uv build --wheel --python $(BIN)/python

clean: ## Remove the environment and what was built; data stay
	rm -rf $(VENV) build dist
