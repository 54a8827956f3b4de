# Everything runs in .venv, which the first command makes. `make help` lists the commands.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq install

# The first python3 on the PATH that is new enough and can make environments.
find-python = for folder in $$(echo "$$PATH" | tr ':' ' '); do \
	for python in "$$folder"/python3 "$$folder"/python3.1[1-9]; do \
		"$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
			2>/dev/null && echo "$$python" && exit; \
	done; done

.PHONY: help demo test format check-models check-arm bench zoo batches numerics latency memory \
	conformance ecosystem readme fuzz clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.demo ## install, then compile and check the digit classifier
	$(BIN)/python examples/digits/demo.py

test: $(VENV)/.test ## install, then format check, lint, types and all tests with coverage
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pytest --cov

format: $(VENV)/.test ## format and fix what ruff can fix
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# of machines like this one
RESULTS = $(shell $(BIN)/python benchmarks/results_file.py)

check-models: $(VENV)/.bench ## MODELS=folder: every model right and one compiled region
	$(BIN)/python benchmarks/models.py --check $(MODELS)

check-arm: $(VENV)/.test ## run kernels and a model as AArch64 code; needs Debian's qemu-user and gcc
	$(BIN)/pytest tests/cpu/test_arm.py -rs

bench: $(VENV)/.bench ## MODELS=folder: time models and operators next to the rivals
	$(BIN)/python benchmarks/models.py $(MODELS) --json $(RESULTS)/models.json
	$(BIN)/python benchmarks/operators.py --json $(RESULTS)/operators.json

zoo: $(VENV)/.zoo ## MODELS=folder: write models of many other architectures there, and time them
	$(BIN)/python benchmarks/zoo.py $(MODELS)
	$(BIN)/python benchmarks/models.py $(MODELS) --json $(RESULTS)/zoo.json

batches: $(VENV)/.bench ## MODELS=folder: time batches of 8 and 32 samples next to the rivals
	$(BIN)/python benchmarks/batches.py $(MODELS) --json $(RESULTS)/batches.json

numerics: $(VENV)/.bench ## MODELS=folder: errors of whole models against double precision
	$(BIN)/python benchmarks/numerics.py $(MODELS) --json $(RESULTS)/numerics.json

latency: $(VENV)/.demo ## MODELS=folder: are calls even, without allocation, and idle threads idle?
	$(BIN)/python benchmarks/latency.py $(MODELS)/*.onnx --json $(RESULTS)/latency.json

memory: $(VENV)/.demo ## peak memory of a model with 3 GiB of weights in an external file
	$(BIN)/python benchmarks/big_model.py --json $(RESULTS)/big_model.json

conformance: $(VENV)/.test ## run the official ONNX backend tests and write docs/onnx.md
	$(BIN)/python benchmarks/conformance.py --write

ecosystem: $(VENV)/.ecosystem ## run scikit-learn, boosters, transformers on Tilth; write docs/ecosystem.md
	$(BIN)/pytest tests/ecosystem --page docs/ecosystem.md

readme: $(VENV)/.demo ## write the demo's output and the speed table into README
	$(BIN)/python benchmarks/readme.py

N ?= 100000
fuzz: $(VENV)/.test ## N=100000: mutated and broken ONNX files; failures go into the tests
	$(BIN)/python -W ignore tests/onnx/fuzz/fuzz_run.py $(N) --keep

clean: ## remove the environment
	rm -rf $(VENV)

# A stamp file says what is installed; a changed pyproject.toml installs again.
$(VENV)/.made:
	@python=$$($(find-python)); \
	if [ -z "$$python" ]; then \
		echo "make: no python3 >= 3.11 with the venv module on the PATH; please install one" >&2; \
		exit 1; \
	fi; \
	echo "making $(VENV) with $$python"; \
	"$$python" -m venv --clear $(VENV)
	@touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.made
	@echo "installing tilth"
	@$(PIP) -e '.[png]'
	@touch $@

$(VENV)/.bench: pyproject.toml $(VENV)/.made
	@echo "installing tilth and its rivals"
	@$(PIP) -e '.[bench]'
	@touch $@

$(VENV)/.zoo: pyproject.toml $(VENV)/.made
	@echo "installing tilth, its rivals and what makes models"
	@$(PIP) -e '.[bench,zoo]'
	@touch $@

$(VENV)/.ecosystem: pyproject.toml $(VENV)/.made
	@echo "installing tilth and programs that run on it"
	@$(PIP) -e '.[ecosystem]'
	@touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.made
	@echo "installing tilth and what its tests need"
	@$(PIP) -e '.[test,torch]'
	@touch $@
