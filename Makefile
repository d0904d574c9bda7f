# Each line is a command that a user could type in the activated environment (. .venv/bin/activate).
.PHONY: help setup repro demo open clean test test-slow test-all lint lock
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python -m vit_finetune.core.environment

help:
	@echo "make repro   set up, run the pipeline of params.yaml, print the results (DATA=folder of your own images)"
	@echo "make demo    set up, run it on data and weights that are already here (PROFILE=name for another overlay)"
	@echo "make open    show the report and the attention page of the newest run, demo or default, in a browser"
	@echo "make clean   remove what interrupted runs and tools left; results and DVC's cache stay"
	@echo "make test    set up, run the quick tests"
	@echo "make test-all  the quick tests, then the slow ones"
	@echo "make lint    ruff and mypy for Python, deno for JavaScript and CSS"
	@echo "make lock    pin every package anew in requirements.lock"

# The environment is complete when its stamp is newer than the locks and pyproject.toml, which names the commands.
setup: .venv/.complete
.venv/.complete: requirements.lock requirements-uv.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
	@echo "installing the packages of requirements.lock; on Linux several GB, which takes a few minutes"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	$(RUN) python tools/plots_page.py
	touch $@

repro: setup
ifdef DATA
	$(RUN) python -m vit_finetune.own_images "$(DATA)" $(if $(PROFILE),--profile $(PROFILE))
else
	$(BIN)/python -m vit_finetune.params
	$(RUN) dvc repro
endif
	$(BIN)/python -m vit_finetune.summary

demo: setup
	$(BIN)/python -m vit_finetune.profiles $(or $(PROFILE),demo)

open: setup
	$(BIN)/python -m vit_finetune.open

clean:
	rm -rf .checkpoints .run/*.lock .run/ranks .uv_cache dvc_plots dvclive .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src stages tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +

TESTS := python -m pytest -n auto --maxprocesses 4 --dist worksteal

test: setup
	$(RUN) $(TESTS) -m "not slow"

test-slow: setup
	$(RUN) $(TESTS) -m slow

test-all: test test-slow

lint: setup
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) deno lint
	$(RUN) deno fmt --check
	$(RUN) deno check src

lock:
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 --extra dev pyproject.toml -o requirements.lock
	echo uv | $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 - -o requirements-uv.lock
