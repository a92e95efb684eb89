# One verb a line: `make help` lists them. Set-up runs again only when what it installs has changed.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo lab panel test lint faults soak fuzz bench figures vllm-next wheel clean

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# The first interpreter that really starts: a pyenv shim may be there and name nothing.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	if $$python -c '' 2>/dev/null </dev/null; then echo $$python; break; fi; done)

help:
	@echo "make demo    set up, run the quick-start notebook on the real engine, print what it made"
	@echo "make lab     set up, open JupyterLab in notebooks/"
	@echo "make panel   set up, build the JupyterLab panel"
	@echo "make test    set up, run every test"
	@echo "make lint    set up, run ruff, mypy, import-linter, the checks of rooms and words, and tsc, eslint and prettier on the panel"
	@echo "make faults  set up, let one error fall on each file system call of a batch's life, about half an hour"
	@echo "make soak MINUTES=60   set up, kill, fail and stop what runs on one store for that long"
	@echo "make fuzz    set up, read a million mutated inputs; INPUTS=20000 reads fewer, SEED=1 repeats them"
	@echo "make bench   set up, compare with LLM.chat, run-batch, a loop of AsyncOpenAI and llama.cpp; BENCH=a,b picks workloads"
	@echo "make figures set up, measure the parts: the plan, 1,000 to 1,000,000 requests, a chat beside a batch, a busy cell"
	@echo "make vllm-next VERSION=0.33.0   set up, download that vLLM, say what is not in it that we need; nothing of it is run"
	@echo "make wheel   set up, build dist/*.whl"
	@echo "make clean   remove $(VENV), dist and caches"

$(READY): pyproject.toml $(wildcard requirements/*.txt) tools/setup_environment.py
	@if [ -z "$(PYTHON)" ]; then \
		echo "No Python was found: install Python 3.11, on Debian or Ubuntu with 'apt-get install python3.11-venv'." >&2; exit 1; fi
	@$(PYTHON) tools/setup_environment.py $(VENV)
	@touch $@

demo: $(READY)
	@store=$$(mktemp -d); VBATCH_STORE=$$store $(BIN)/python tools/run_notebook.py notebooks/01_quickstart.ipynb; \
		status=$$?; rm -rf $$store; exit $$status

lab: panel
	@cd notebooks && ../$(BIN)/jupyter lab

panel: $(READY)
	@$(BIN)/python tools/build_panel.py build

test: panel
	@$(BIN)/python tools/bring_chromium.py
	@echo "== jest"
	@$(BIN)/python tools/build_panel.py test
	@echo "== pytest: unit, repository, integration, acceptance, engine, notebooks, ui"
	@$(BIN)/python -m pytest

fuzz: $(READY)
	@$(BIN)/python -m tools.fuzz $(or $(INPUTS),1000000) --seed $(or $(SEED),0)

lint: $(READY)
	@echo "== ruff check"
	@$(BIN)/ruff check
	@echo "== ruff format --check"
	@$(BIN)/ruff format --check
	@echo "== mypy"
	@$(BIN)/mypy
	@echo "== lint-imports"
	@$(BIN)/lint-imports
	@echo "== words"
	@$(BIN)/python tools/check_words.py
	@echo "== rooms"
	@$(BIN)/python tools/check_rooms.py
	@echo "== tsc, eslint, prettier"
	@$(BIN)/python tools/build_panel.py lint

faults: $(READY)
	@$(BIN)/python -m tests.acceptance.fault_matrix

soak: $(READY)
	@$(BIN)/python -m tests.acceptance.soak $(or $(MINUTES),60)

bench: $(READY)
	@$(BIN)/python benchmarks/bench.py

figures: $(READY)
	@$(BIN)/python benchmarks/planning.py
	@$(BIN)/python benchmarks/scale.py
	@$(BIN)/python benchmarks/first_token.py
	@$(BIN)/python benchmarks/busy_cell.py

vllm-next: $(READY)
	@$(BIN)/python tools/compare_vllm.py $(VERSION)

wheel: $(READY)
	@$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

clean:
	@rm -rf $(VENV) dist build labextension/lib labextension/node_modules labextension/.yarn vbatch_jupyter/labextension .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@echo "Removed $(VENV), dist and caches; the store and the demo model in Jupyter's data directory are kept."
