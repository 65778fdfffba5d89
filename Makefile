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
.PHONY: help demo demo-replay test lint format train test-cluster chaos parity-arm64 lock clean edgetpu audit sbom deb test-systemd test-image test-arm64

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(DEMO_READY) ## See it work: recorded earthquakes, played into the service (DEMO_ARGS="--keep --open")
	@$(BIN)/monitor demo --output $(DEMO_OUTPUT) $(DEMO_ARGS)

demo-replay: $(DEMO_READY) ## Find the same earthquakes straight in the recordings, and draw them
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

# How what ships was made; its card says the same.
TRAIN_ARGS ?= --seed 20261119 --steps 12000 --start-from train/start/seismic-4.tflite
train: $(ALL_READY) ## Make what ships anew: make train DATA=/path/to/data; TRAIN_ARGS= from nothing
	$(BIN)/python -m train all $(if $(DATA),--data $(DATA)) $(TRAIN_ARGS)

test-cluster: $(ALL_READY) ## Train with two workers on this machine; both must end with one model
	$(BIN)/python -m pytest tests/two_workers.py

# Beside the environment, not in it: atheris has wheels for Linux on x86-64 only; without it fuzzing is by chance.
chaos: $(ALL_READY) ## Break it on purpose, for three hours or so (CHAOS_ARGS="kill --kills 50", CHAOS_ARGS=--help)
	@test -d $(VENV)/fuzz/atheris || $(PIP) install --quiet --no-deps --target $(VENV)/fuzz atheris==3.0.0 || \
		echo "atheris cannot be installed here: inputs are changed by chance"
	PYTHONPATH=$(VENV)/fuzz $(BIN)/python -m tests.chaos $(CHAOS_ARGS)

parity-arm64: $(DEMO_READY) ## Compare detections with arm64 under emulation (needs Debian's qemu-user-static)
	$(BIN)/python benchmarks/parity_arm64.py $(PARITY_ARGS)

deb: $(DEMO_READY) ## Build dist/seismic-monitor_VERSION_ARCH.deb (ARCH=arm64: for a Raspberry Pi)
	PYTHON=$(CURDIR)/$(BIN)/python $(if $(ARCH),ARCH=$(ARCH)) deploy/deb/build.sh

test-systemd: $(ALL_READY) ## Install, run, harm, upgrade and remove it on a fresh Debian with systemd (as root; FIELD_SUITE=trixie)
	$(BIN)/python -m pytest -p tests.field.table --tb=short tests/field/systemd.py tests/field/pages.py $(PYTEST_ARGS)

test-image: $(ALL_READY) ## Build the container image for amd64 and arm64, run it and compose.yaml (as root; FIELD_ARCHITECTURES=amd64)
	$(BIN)/python -m pytest -p tests.field.table --tb=short tests/field/image.py tests/field/compose.py $(PYTEST_ARGS)

test-arm64: $(ALL_READY) ## Install on a fresh Debian for arm64 under QEMU, compare (as root; FIELD_RELEASES="bookworm trixie")
	$(BIN)/python -m pytest -p tests.field.table --tb=short tests/field/arm64.py $(PYTEST_ARGS)

edgetpu: $(DEMO_READY) ## Compile the model for a Coral Edge TPU (MODEL=file; needs Google's edgetpu_compiler, x86-64)
	$(BIN)/python -m train.edgetpu $(MODEL)

# Beside the environment, not in it: pip-audit brings much that is not locked.
audit: $(CREATED) ## Ask whether anything in the locks is known to be vulnerable, and that all is pinned with hashes
	@test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit && \
		$(VENV)/audit/bin/python -m pip --disable-pip-version-check install --quiet pip-audit; } || \
		echo "pip-audit cannot be installed here"
	$(BIN)/python deploy/audit.py --pip-audit $(VENV)/audit/bin/pip-audit

sbom: $(DEMO_READY) ## Write what an edge installation consists of to dist/ (CycloneDX)
	$(BIN)/python deploy/sbom.py --output dist/seismic-monitor.cdx.json

# One resolution for all: the smaller locks take their versions from the full one.
UV_COMPILE = $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-emit-index-url --custom-compile-command "make lock" $(LOCK_ARGS)

lock: $(CREATED) ## Resolve the dependencies anew where needed (LOCK_ARGS=--upgrade: all of them)
	$(PIP) install --quiet uv
	$(UV_COMPILE) --all-extras --group build --group dev --output-file requirements.lock
	$(UV_COMPILE) --extra demo --group build --constraint requirements.lock --output-file requirements-demo.lock
	$(UV_COMPILE) --constraint requirements.lock --output-file requirements-edge.lock
	$(subst pyproject.toml ,,$(UV_COMPILE)) --group build --constraint requirements.lock --output-file requirements-build.lock

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
