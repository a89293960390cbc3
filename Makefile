# One environment for everything: .venv, made by uv, which itself is installed into .uv.
# `make PYTHON=python3.12 setup` picks another interpreter; `make clean` first if .uv exists already.
# `make TORCH=cpu setup` takes PyTorch's builds for processors from PyTorch's own index: a tenth of the download. TORCH is what
# uv calls --torch-backend: cpu, cu130, rocm7.2, auto. By default, and for whatever that index lacks, it is the usual one.

PYTHON ?= python3
SCRIPTS := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN := .venv/$(SCRIPTS)
UV := .uv/$(SCRIPTS)/uv
STAMP := .venv/.installed

# What the demo imports. uv leaves Python files as they are, so each process would compile thousands of them anew wherever
# PYTHONDONTWRITEBYTECODE is set, as it often is in containers: 12 seconds for timm alone, in place of 3.
IMPORTED := biofuse.studies.demo, biofuse.cli.app, matplotlib.figure, nibabel, plotly.graph_objects, skimage.feature, sklearn.linear_model, timm
unexport PYTHONDONTWRITEBYTECODE

# An environment whose interpreter is gone (an upgraded or removed Python) counts as none.
$(shell test -x $(BIN)/python || rm -f $(STAMP))

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast lint format tutorials docs site constraints wheel version clean

help: ## Show this list
	@sed -n -E 's/^([a-z-]+):[^#]*## (.*)/  make \1@\2/p' Makefile | awk -F@ '{ printf "%-20s %s\n", $$1, $$2 }'

setup: $(STAMP) ## Make or update the environment (done by every other target when needed)

demo: $(STAMP) ## Run BioFuse on real images; results in demo-run/
	$(BIN)/biofuse demo --out demo-run

test: $(STAMP) ## Run all tests, on all cores
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist worksteal

test-fast: $(STAMP) ## Run the tests not marked slow
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

lint: $(STAMP) ## Check style, types and the order of the packages
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code and apply the safe fixes
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

tutorials: $(STAMP) ## Run the tutorials and write their outputs, pictures and notebooks anew
	$(BIN)/python docs/tutorials/run.py

docs: $(STAMP) ## Write the generated pages anew: docs/options.md and docs/encoders.md
	$(BIN)/python -c "from biofuse.cli.options import options_page; print(options_page(), end='')" > docs/options.md
	$(BIN)/python -c "from biofuse.cli.encoders import encoders_page; print(encoders_page(), end='')" > docs/encoders.md

site: $(STAMP) ## Build the documentation site into site/, without a network; a warning fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

constraints: $(STAMP) ## Write the versions now installed to constraints.txt
	@{ echo "# Versions that were tested together on $$($(BIN)/python -VV | cut -d' ' -f1,2). Written by: make constraints"; \
	   echo "# Left out: what only one platform needs (nvidia-*, cuda-*, triton)."; \
	   $(UV) pip freeze --quiet --exclude-editable --python $(BIN)/python \
	   | grep -E '^[A-Za-z0-9._-]+==' | grep -v -E '^(nvidia-|cuda-|triton)'; } > constraints.txt.new
	@mv constraints.txt.new constraints.txt && touch $(STAMP)

wheel: $(STAMP) ## Build source distribution and wheel, check them, and run the wheel in an environment of its own
	rm -rf dist .venv-wheel
	@$(INDEX); set -ex; \
	$(UV) build --quiet; \
	$(UV) tool run --quiet twine check --strict dist/*; \
	$(UV) tool run --quiet check-wheel-contents dist/*.whl; \
	$(UV) venv --quiet --python $(BIN)/python .venv-wheel; \
	$(UV) pip install --quiet --python .venv-wheel/$(SCRIPTS)/python --constraint constraints.txt dist/*.whl; \
	.venv-wheel/$(SCRIPTS)/biofuse --version; \
	.venv-wheel/$(SCRIPTS)/biofuse encoders doctor hog
	rm -rf .venv-wheel

version: $(STAMP) ## Print the version
	@$(BIN)/python -c "import biofuse; print(biofuse.__version__)"

clean: ## Remove everything that make made: environments, caches, demo-run
	rm -rf .venv .venv-wheel .uv demo-run build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# uv reads its own settings and not pip's: where only pip was told of a package index, pass that on.
INDEX = index="$${UV_DEFAULT_INDEX:-$${UV_INDEX_URL:-$${PIP_INDEX_URL:-$$(.uv/$(SCRIPTS)/python -m pip config get global.index-url 2>/dev/null || true)}}}"; \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$$index"; fi

$(STAMP): pyproject.toml constraints.txt $(BIN)/python
	@$(INDEX); \
	echo "Installing BioFuse and its dependencies into .venv"; \
	$(UV) pip install --python $(BIN)/python $(if $(TORCH),--torch-backend $(TORCH)) --constraint constraints.txt --editable '.[demo,dev]'
	@$(BIN)/python -c "import $(IMPORTED)"
	@touch $@

$(BIN)/python: | $(UV)
	$(UV) venv --quiet --clear --python .uv/$(SCRIPTS)/python .venv

$(UV):
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no '$(PYTHON)'. Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3 setup" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "BioFuse needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V). Name another: make PYTHON=python3.12 setup" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make environments (venv or ensurepip is missing). On Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear .uv
	.uv/$(SCRIPTS)/python -m pip install --quiet uv
