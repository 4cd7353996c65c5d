# The commands of this project; `make` alone lists them.

PYTHON ?= $(shell command -v python3.11 || echo python3)
PORT   ?= 3000
TORCH  ?= cpu
VENV   ?= .venv
PYTEST ?= $(VENV)/bin/pytest -n 2 --dist loadgroup
RUFF   ?= $(VENV)/bin/ruff
MYPY   ?= $(VENV)/bin/mypy

SHELL  := bash
export BENTOML_DO_NOT_TRACK := True
# Modules are compiled when they are first imported, and kept: every process of a server imports them again.
export PYTHONDONTWRITEBYTECODE :=

PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
# pip's output, without the lines of small files; two thirds of what pip would compile is never imported.
INSTALL = set -o pipefail; $(1)/bin/python -m pip --disable-pip-version-check install --no-compile -r $(2) | { grep --line-buffered -oE '(Downloading|Using cached) .*[MG]B\)|Installing collected' || true; }

.PHONY: help serve models demo test pytest packages soak readme-test clients lock-clients sweep bento-test image-test audit conformance bench bench-generation bench-quantization lint types format reference docs docs-build lock build clean
.DEFAULT_GOAL := help

help:    ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(VENV)/runtime  ## Serve two demo models on port 3000 (PORT=…); next, any other: STORAGE_URI=hf://owner/model TASK=…
	$(VENV)/bin/bentoml serve service:HuggingFaceRuntime --port $(PORT)

# Unless the caller names a model, the demo models.
ifeq ($(STORAGE_URI)$(RUNTIME_CONFIG),)
serve: export RUNTIME_CONFIG := configs/quickstart.yaml
serve: models
endif

models: $(VENV)/python  ## Fetch the demo models (180 MB) into .models
	@$(VENV)/bin/python commands/fetch_models.py

demo: models $(VENV)/runtime  ## Train five small models beside them, for configs/demo.yaml: all seven tasks (minutes)
	@OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python -m commands.train_demo_models

test: lint types pytest  ## Run every check: lint, types and tests (PYTEST='…' to choose)

# A target of its own: types are checked beside it where make may do two things at a time.
pytest: packages
	$(PYTEST)

packages: $(VENV)/dev $(VENV)/kserve/installed

soak: $(VENV)/dev  ## Overload, fuzz and soak the server, three quarters of an hour (SOAK='--soak-minutes 5 …'); prints figures
	$(VENV)/bin/pytest -m soak tests/soak $(SOAK)

readme-test: demo $(VENV)/dev  ## Run the examples of README and docs/ with the demo models, and compare the answers with what they print
	$(VENV)/bin/pytest -m readme tests

# One environment for each client: their pins clash.
CLIENTS := $(basename $(notdir $(wildcard tests/clients/requirements/*.txt)))

clients: models $(VENV)/dev $(CLIENTS:%=$(VENV)/clients/%/installed)  ## Run the clients of OpenAI's and Anthropic's APIs, each in an environment of its own, against the server
	$(VENV)/bin/pytest -m clients tests/clients -rs

# A second time with AVX2 alone where the processor has more: kernels are then others.
sweep: $(VENV)/dev  ## Compare every architecture, and the most downloaded models in their public sizes, with transformers (minutes)
	$(PYTEST) -m "" tests/architectures
	$(PYTEST) -m "" tests/public_sizes
	@! grep -qsw avx512f /proc/cpuinfo || \
	  $(VENV)/bin/python -m tests.public_sizes.avx2_only $(PYTEST) -m "" -k accelerated tests/public_sizes

audit: $(VENV)/audit/installed  ## Look for known vulnerabilities in the pinned packages
	$(VENV)/audit/bin/pip-audit --disable-pip --no-deps -r requirements.txt

conformance: $(VENV)/dev  ## Send the requests of docs/kserve-comparison.md to the server, and write its table
	$(VENV)/bin/pytest tests/e2e/test_conformance.py --write-conformance

bench: models $(VENV)/dev  ## Measure the server beside other servers and the model alone (three quarters of an hour; BEFORE=revision)
	@$(VENV)/bin/python -m benchmarks.serving $(if $(BEFORE),--before "$(BEFORE)") $(BENCH)

bench-generation: models $(VENV)/runtime  ## Measure how fast text is written, with nothing else running (minutes)
	@$(VENV)/bin/python -m benchmarks.generation

bench-quantization: models $(VENV)/runtime  ## Measure memory and time of each precision, with nothing else running
	@$(VENV)/bin/python -m benchmarks.quantization

lint: $(VENV)/dev docs-build  ## Check style, that rooms import downwards only, and the links of docs/
	$(RUFF) check
	$(RUFF) format --check
	$(VENV)/bin/lint-imports

types: $(VENV)/dev  ## Check types
	$(MYPY) .

reference: $(VENV)/dev  ## Write the reference tables of docs/ from the code
	$(VENV)/bin/python -m commands.write_reference

# Without the notice about MkDocs 2, which is not installed.
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(VENV)/dev  ## Serve docs/ as a site on port 8000 (DOCS_PORT=…)
	$(VENV)/bin/mkdocs serve --dev-addr localhost:$(or $(DOCS_PORT),8000)

docs-build: export NO_MKDOCS_2_WARNING := 1
docs-build: $(VENV)/dev  ## Build the site of docs/ into .site; a broken link is an error
	$(VENV)/bin/mkdocs build --strict --quiet

format: $(VENV)/dev  ## Format the code and fix what can be fixed
	$(RUFF) check --fix
	$(RUFF) format

build: $(VENV)/dev  ## Build the Bento (STORAGE_URI=… puts that model into it, TORCH=cu130 is for GPUs)
	@set -euo pipefail; model=; \
	if [ -n "$${STORAGE_URI:-}" ]; then model="--arg model=$$($(VENV)/bin/python -m commands.import_model)"; fi; \
	env -u STORAGE_URI $(VENV)/bin/bentoml build --arg torch=$(TORCH) $$model

# A home of BentoML's own, so that what is tested is not found among one's own Bentos.
bento-test: $(VENV)/dev $(VENV)/kserve/installed  ## Run the end-to-end tests against the built Bento (minutes)
	@set -euo pipefail; export BENTOML_HOME=$$(mktemp -d); trap 'rm -rf "$$BENTOML_HOME"' EXIT; \
	tag=$$($(VENV)/bin/bentoml build --output tag | tail -n 1); tag=$${tag#__tag__:}; \
	TESTED_BENTO="$$BENTOML_HOME/bentos/$${tag/://}" $(PYTEST) tests/e2e

image-test: $(VENV)/dev  ## Build the image with buildah, as root, run it and send it requests (minutes)
	$(VENV)/bin/pytest -m image tests/package -rs

lock: $(VENV)/python  ## Pin requirements*.in again; pins that still fit stay (UPGRADE=--upgrade moves them)
	$(PIP) install --quiet pip-tools==7.6.2
	@# torch as the index names it, without a local build's suffix or the CUDA packages of one platform.
	@set -euo pipefail; for name in requirements requirements-dev requirements-kserve; do \
	  echo "Resolving $$name.in"; \
	  $(VENV)/bin/pip-compile --quiet --strip-extras --allow-unsafe --no-header --no-annotate --no-emit-options \
	    --no-emit-index-url --no-emit-find-links $(UPGRADE) --output-file $$name.txt $$name.in; \
	  { echo "# Written by 'make lock' from $$name.in."; \
	    grep -vE '^(#|$$|cuda-|triton==|nvidia-[^m])' $$name.txt | sed 's/+cpu$$//'; } > $$name.tmp; \
	  mv $$name.tmp $$name.txt; \
	done

# The first line of each file names the packages that are asked for. torch is the server's own.
lock-clients: $(VENV)/dev  ## Pin the newest packages of each client in tests/clients
	@set -euo pipefail; for file in tests/clients/requirements/*.txt; do \
	  echo "Resolving $$file"; first=$$(head -n 1 $$file); \
	  tr ' ' '\n' <<< "$${first#*for: }" | $(VENV)/bin/uv pip compile --quiet --no-header --no-annotate --no-emit-index-url \
	    --universal --python-version 3.11 --output-file $$file.tmp -; \
	  { echo "$$first"; grep -vE '^(cuda-|nvidia-|torch==|triton==)' $$file.tmp; } > $$file; rm $$file.tmp; \
	done

clean:   ## Remove the virtual environment, the demo models and all caches
	rm -rf $(VENV) tests/clients/ai_sdk/node_modules .models .site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# Empty files in the virtual environment say what is installed there.
$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Error: Python 3.11 or newer is needed; name one with PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/runtime: requirements.txt | $(VENV)/python
	@echo "Installing the server's packages into $(VENV); PyTorch is the large one"
	@$(call INSTALL,$(VENV),requirements.txt)
	@touch $@

# KServe's package, for its clients, beside the server's packages: it wants older ones.
$(VENV)/kserve/installed: requirements-kserve.txt | $(VENV)/python
	@echo "Installing KServe's client into $(VENV)/kserve"
	@$(PYTHON) -m venv $(VENV)/kserve
	@$(call INSTALL,$(VENV)/kserve,requirements-kserve.txt)
	@touch $@

$(VENV)/dev: requirements-dev.txt $(VENV)/runtime
	@echo "Installing the packages for checks into $(VENV)"
	@$(call INSTALL,$(VENV),requirements-dev.txt)
	@touch $@

# By itself: what it needs must not decide what the server gets.
$(VENV)/audit/installed: | $(VENV)/python
	@echo "Installing pip-audit into $(VENV)/audit"
	@$(PYTHON) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/python -m pip --disable-pip-version-check install --quiet pip-audit==2.10.1
	@touch $@

# Clients that cannot be installed are skipped, with the reason. torch, where one needs it, is the server's.
$(VENV)/clients/%/installed: tests/clients/requirements/%.txt tests/clients/ai_sdk/package-lock.json | $(VENV)/dev
	@echo "Installing the client $*"
	@rm -rf $(@D)
	@set -o pipefail; $(VENV)/bin/uv venv --quiet --python $(VENV)/bin/python $(@D) && \
	  { $(VENV)/bin/uv pip install --quiet --no-deps --python $(@D) -r $< && \
	    if [ $* = ai_sdk ]; then \
	      PATH="$(abspath $(@D))/bin:$$PATH" npm ci --prefix tests/clients/ai_sdk --silent --no-audit --no-fund; \
	    fi; } 2>&1 | tee $(@D)/failed && rm $(@D)/failed || true
	@if [ $* = guidellm ]; then \
	  $(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
	    "$$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/server.pth"; \
	fi
	@touch $@
