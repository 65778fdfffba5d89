# `make` lists the targets. Needs nothing but make and python3 (3.11 to 3.13) with venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# A stamp says what $(VENV) holds; it is renewed when the lock or pyproject.toml changes.
CREATED := $(VENV)/.created
DEMO_READY := $(VENV)/.ready-demo
ALL_READY := $(VENV)/.ready-all

# ObsPy carries four Bavarian stations' recordings of the morning of 2010-05-27 as test data.
DEMO_FILES := $(VENV)/lib/python3*/site-packages/obspy/signal/tests/data/BW.UH*.cut.slist.gz
DEMO_OUTPUT := demo-output

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two installs into one environment at once would disturb each other.
.NOTPARALLEL:
.PHONY: help demo test lint format train test-cluster parity-arm64 lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(DEMO_READY) ## Find the earthquakes of 2010-05-27 in four stations' recordings
	$(BIN)/monitor replay $(DEMO_FILES) --format table --plot $(DEMO_OUTPUT)/
	@echo "Each line above is one detection at one station. $(DEMO_OUTPUT)/ now holds the pictures:"
	@ls -1 $(DEMO_OUTPUT)/*

test: $(ALL_READY) ## Run every test (PYTEST_ARGS="-k ring" for some)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(ALL_READY) ## Check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(ALL_READY) ## Format the code and repair what can be repaired
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

train: $(ALL_READY) ## Train the model anew: make train DATA=/path/to/data
	$(BIN)/python -m train all $(if $(DATA),--data $(DATA)) $(TRAIN_ARGS)

test-cluster: $(ALL_READY) ## Train with two workers on this machine; both must end with one model
	$(BIN)/python -m pytest tests/two_workers.py

parity-arm64: $(DEMO_READY) ## Compare detections with arm64 under emulation (needs Debian's qemu-user-static)
	$(BIN)/python benchmarks/parity_arm64.py $(PARITY_ARGS)

# One resolution for all: the smaller locks take their versions from the full one.
UV_COMPILE = $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-emit-index-url --custom-compile-command "make lock" $(LOCK_ARGS)

lock: $(CREATED) ## Resolve the dependencies anew where needed (LOCK_ARGS=--upgrade: all of them)
	$(PIP) install --quiet uv
	$(UV_COMPILE) --all-extras --group build --group dev --output-file requirements.lock
	$(UV_COMPILE) --extra demo --group build --constraint requirements.lock --output-file requirements-demo.lock
	$(UV_COMPILE) --constraint requirements.lock --output-file requirements-edge.lock

clean: ## Remove the environment and everything that was made
	rm -rf $(VENV) $(DEMO_OUTPUT) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(CREATED):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "Python 3.11, 3.12 or 3.13 is needed; '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)"; \
		echo "Debian 12 and later have it: apt install python3 python3-venv"; \
		echo "Elsewhere, name the one to use: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' || { \
		echo "'$(PYTHON)' comes without venv: apt install python3-venv"; exit 1; } >&2
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(DEMO_READY): requirements-demo.lock
$(ALL_READY): requirements.lock
$(DEMO_READY) $(ALL_READY): pyproject.toml | $(CREATED)
	@echo "Installing what $(filter %.lock,$^) lists into $(VENV) (the first time takes a minute or two)"
	@$(PIP) install --quiet --require-hashes --requirement $(filter %.lock,$^)
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
