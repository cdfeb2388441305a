# Every target sets up what it needs: a fresh clone needs only python3 (3.11 to 3.13) and this file.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
MODELS ?= models
# Processes that run tests, each a file at a time: half of the time tests wait for what they have started. OpenMP's threads
# must not spin while they wait for a core.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup serve test lint types format bench protos lock docs clean clients tools ray dashboards

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

$(VENV)/.serve: pyproject.toml | $(VENV)/.venv
	@echo "Installing torchere and its demo models into $(VENV) (PyTorch is large: a few minutes the first time) ..."
	$(BIN)/python -m pip install --quiet -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.venv
	@echo "Installing torchere, its demo models and the development tools into $(VENV) ..."
	$(BIN)/python -m pip install --quiet -e '.[demo,dev]'
	@touch $@ $(VENV)/.serve

setup: $(VENV)/.dev  ## Create .venv with everything needed to develop

serve: $(VENV)/.serve  ## Set up, then serve the demo models on 127.0.0.1:8000 (HTTP), 8001 (gRPC), 8002 (metrics)
	$(BIN)/torchere serve --model-repository $(MODELS)

test: $(VENV)/.dev  ## Set up, then run the tests, in two processes (WORKERS=0: in one)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

build/clients/.installed: tests/e2e/foreign/install.sh tests/e2e/foreign/kserve.txt | $(VENV)/.dev
	PYTHON=$(BIN)/python tests/e2e/foreign/install.sh build/clients

clients: build/clients/.installed  ## Fetch the clients of others that tests drive; without them these tests are skipped

build/tools/.installed: tests/deploy/install.sh tests/deploy/tools.txt | $(VENV)/.dev
	PYTHON=$(BIN)/python tests/deploy/install.sh build/tools

tools: build/tools/.installed  ## Fetch what judges the manifests and rules; without it these tests are skipped

build/ray/.installed: tests/e2e/ray_env.sh | $(VENV)/.dev
	PYTHON=$(BIN)/python tests/e2e/ray_env.sh build/ray

ray: build/ray/.installed  ## Put Ray into an environment of its own; without it the tests of it are skipped

lint: $(VENV)/.dev  ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## Check types
	$(BIN)/mypy

format: $(VENV)/.dev  ## Format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## Measure what the stack costs, beside a plain FastAPI server (seven minutes)
	$(BIN)/python -m benchmarks.stack --out benchmarks/results

protos:  ## Generate the gRPC stubs (with old tools: newer runtimes take older stubs, not the reverse)
	$(PYTHON) -m venv build/protos
	build/protos/bin/pip install --quiet 'grpcio-tools==1.68.0' 'setuptools<80'
	build/protos/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. protos/inference.proto

lock: $(VENV)/.dev  ## Write the locks of the images anew (PIP_EXTRA_INDEX_URL names where PyTorch for the CPU is)
	for target in cpu gpu; do \
	  $(BIN)/python -m deploy.container.lock $$target > build.lock && mv build.lock deploy/container/requirements-$$target.txt || exit 1; \
	done

docs: $(VENV)/.dev  ## Generate docs/configuration.md from the settings, docs/metrics.md from the declarations, the sizing table
	$(BIN)/python -m service.settings_page > docs/configuration.md
	$(BIN)/python -m service.metrics_page > docs/metrics.md
	$(BIN)/python -m benchmarks.sizing

dashboards: $(VENV)/.dev  ## Write the dashboards of deploy/grafana, and the PrometheusRule from deploy/prometheus/rules.yaml
	$(BIN)/python -m deploy.grafana.write

clean:  ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build *.egg-info
