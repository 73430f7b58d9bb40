# Every target sets up what it needs first; a second run of the set-up is instant.
# `make` alone lists the targets; the sentence after ## is what it prints.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test nightly style types imports kernels compiled check drills promises clean

PY := .venv/bin/python
# COVERAGE=1 also reports the branches the tests reach.
PYTEST = -m pytest -q -n auto --maxprocesses 4 --dist worksteal $(if $(COVERAGE),--cov --cov-report=term)
GATE := -m "not nightly" -o faulthandler_timeout=300 -o faulthandler_exit_on_timeout=true

help:  ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## Make .venv hold exactly the pinned versions (PYTHON=… names the interpreter).
	@.ci/setup

demo: setup  ## Train, serve two tiers, break them, print one table (DATA=Beauty.txt for real data).
	@$(PY) examples/shop_demo/run.py $(if $(DATA),--data "$(DATA)")

test: setup  ## Run the tests (COVERAGE=1 reports the branches they reach).
	@$(PY) $(PYTEST) $(GATE)

nightly: COVERAGE := 1
nightly: setup  ## Run every test, on new examples; report the branches they reach.
	@HYPOTHESIS_PROFILE=search $(PY) $(PYTEST)

style: setup  ## Check style and formatting (ruff).
	@$(PY) -m ruff check --no-cache .
	@$(PY) -m ruff format --check .

types: setup  ## Check types: the packages, the typed use of the API, the promises runner (mypy, strict).
	@$(PY) -m mypy
	@$(PY) -m mypy tests/typing/api.py
	@$(PY) -m mypy benchmarks/promises/*.py

imports: setup  ## Check who may import whom (import-linter).
	@.venv/bin/lint-imports

kernels: setup  ## Compile every CUDA kernel for 7.5 to 12.0 and check the code; no GPU (2 minutes).
	@$(PY) -m tierline_kernels.cuda.build --quiet

compiled: setup  ## Compile what a request passes into build/compiled and test serving on it (2 minutes).
	@$(PY) -m tierline_serving.compiling
	@TIERLINE_TESTS_COMPILED=1 PYTHONPATH=$(CURDIR)/build/compiled $(PY) $(PYTEST) $(GATE) tests/serving tests/edge tests/contract tests/cloud/ray

check: style types imports kernels test compiled  ## The whole gate: what .ci/run runs.

drills: setup  ## Break real processes and measure the recovery (ONLY=server-crash chooses).
	@$(PY) -m tierline.cli drill run $(or $(ONLY),core) --negative also --out drill-results

promises: setup  ## Measure what Tierline promises and print what falls short (ONLY=core,kernels chooses).
	@$(PY) benchmarks/promises/run.py $(if $(ONLY),--only "$(ONLY)")

clean:  ## Delete what the targets made: .venv, caches, built files.
	rm -rf .venv dist build .demo drill-results .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
