# Everything a person or CI runs. `make` alone lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints.txt
PACKAGES := sdk/lepton services/mesh/lepton_mesh services/auth/lepton_auth services/storage/lepton_storage \
  services/registry/lepton_registry services/training/lepton_training \
  services/inference/lepton_inference gateway/lepton_gateway deploy/lepton_local
# For tests and benchmarks that import ONNX Runtime before our packages, which turn it off as well.
export ORT_DISABLE_TELEMETRY := 1
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev clients fuzz up down demo examples test lint format protos protos-check bench bench-inference bench-training bench-gpu lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.setup ## Make the virtual environment with what Lepton needs to run
setup-dev: $(VENV)/.setup-dev ## The same, with what tests and linters need

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Lepton needs Python 3.11 or newer; $(PYTHON) is older. Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# torch goes first and alone: a request for it by another package may choose another build.
# onnxruntime-gpu replaces onnxruntime where there is an NVIDIA driver; they share a module.
# Their versions are those of the constraints.
$(VENV)/.setup: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@echo "Installing Lepton into $(VENV) (about 1.5 GB; two minutes)"
	$(PIP) torch
	$(PIP) --editable '.[all]'
	@if [ -e /proc/driver/nvidia/version ]; then \
	  echo "NVIDIA driver found: installing onnxruntime-gpu"; \
	  $(BIN)/python -m pip uninstall --quiet --yes onnxruntime && \
	  $(PIP) --force-reinstall --no-deps onnxruntime-gpu; fi
	@touch $@

$(VENV)/.setup-dev: $(VENV)/.setup
	$(PIP) --group dev
	@touch $@

clients: build/clients/kserve/.setup ## Make the environment of the public client that cannot live in ours (450 MB)

# KServe's generated code and Triton's claim the same protobuf package.
build/clients/kserve/.setup: tests/contract/inference_protocol/kserve-requirements.txt
	@echo "Installing KServe's client into build/clients/kserve (450 MB; half a minute)"
	$(PYTHON) -m venv build/clients/kserve
	build/clients/kserve/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

up: setup ## Start the local stack
	$(BIN)/lepton up

down: ## Stop the local stack
	$(BIN)/lepton down

demo: setup ## Run the main job from raw files to predictions: make demo [DATA=<folder with the MNIST IDX files>]
	@$(BIN)/python -m lepton_local.demo $(if $(DATA),--data '$(DATA)')

examples: setup ## Run every documented example end to end: make examples DATA=<folder> [ONLY=adult,reviews] [ALL=1]
	@$(BIN)/python -m lepton_local.examples $(if $(DATA),--data '$(DATA)') \
	  $(if $(ONLY),--only '$(ONLY)') $(if $(ALL),--all)

test: setup-dev clients ## Run all tests (real data: LEPTON_TEST_DATA=<folder>)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

fuzz: $(VENV)/.setup-fuzz ## Fuzz the data plane's decoders: make fuzz [SECONDS=60]; findings go to build/fuzz
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60)

# Apart from what all developers install: it is there for Linux and macOS only.
$(VENV)/.setup-fuzz: $(VENV)/.setup-dev
	$(PIP) --group fuzz
	@touch $@

lint: setup-dev ## ruff, mypy, import-linter, buf
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES)
	$(BIN)/lint-imports
	$(BIN)/buf lint

format: setup-dev ## Format the code and the protos
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format --write protos --exclude-path protos/third_party

protos: setup-dev ## Regenerate the committed code from protos/
	VENV=$(VENV) protos/generate.sh

protos-check: protos ## Fail when the committed code is not what protos/ gives
	@git diff --exit-code --stat -- '*_pb2*' && test -z "$$(git ls-files --others --exclude-standard -- '*_pb2*')" || \
	  { echo "generated code differs from protos/: run 'make protos' and commit the result" >&2; exit 1; }

bench: setup-dev ## Measure; writes bench/results/latest.json (load from h2load)
	$(BIN)/python -m bench $(ARGS)

bench-inference: setup-dev ## Measure the inference service beside its peers; writes bench/results/inference.{json,png}
	$(BIN)/python -m bench.inference $(ARGS)

bench-training: setup-dev ## Measure training beside plain PyTorch: make bench-training DATA=<folder>; writes bench/results/training.{json,png}
	$(BIN)/python -m bench.training $(if $(DATA),--data '$(DATA)') $(ARGS)

bench-gpu: setup-dev ## Compare the CPU with a GPU, with DATA=<folder with MNIST> in training too; exit code 2 says what is missing; writes bench/results/gpu.json
	$(BIN)/python -m bench.gpu $(if $(DATA),--data '$(DATA)') $(ARGS)

# Both builds of onnxruntime are pinned, whichever of them is installed.
lock: setup-dev ## Pin what is installed now into the constraints file
	@mkdir -p build
	@{ sed -n '/^#/p' $(CONSTRAINTS); $(BIN)/python -m pip list --format=freeze --exclude lepton-cloud \
	  --exclude pip --exclude setuptools | sed -e 's/+cpu$$//' -e 's/^onnxruntime-gpu==/onnxruntime==/' \
	  | sort --ignore-case | sed -e '/^onnxruntime==/{p;s/==/-gpu==/;}'; } > build/lock.txt
	mv build/lock.txt $(CONSTRAINTS)

clean: ## Remove the virtual environment and what was built
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
