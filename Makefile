# The prompt-alignment workbook. `make help` lists the targets; all of them work from a fresh clone.

PYTHON ?= python3
# The torch to install, e.g. TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= $(shell sed -n '/^torch==/p' constraints.txt)
EXPERIMENT ?= params/sandbox.yml
# Test files at a time, each with one thread and about 1 GB of memory: one more than the cores, since some of them wait.
WORKERS ?= 3

VENV_PYTHON := .venv/bin/python
WORKBOOK := $(VENV_PYTHON) -m nbutils.run.cli
INSTALLED := .venv/installed

# A service user's home may not be writable; Jupyter and the caches need one that is.
export HOME := $(shell if [ -w "$$HOME" ]; then printf %s "$$HOME"; else printf %s "$$(pwd -P)/.venv/home"; fi)
# An environment copied or moved along with its folder still points at the old one: the stamp says where it was made.
ifneq ($(shell cat $(INSTALLED) 2>/dev/null),$(CURDIR))
.PHONY: $(INSTALLED)
endif

.DEFAULT_GOAL := help
.PHONY: help setup sandbox test lint format figures lab clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

setup: $(INSTALLED) ## make .venv with the pinned dependencies (about 2 GB; only redone when they change)

$(INSTALLED): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or newer wanted, $$("$(PYTHON)" --version 2>/dev/null || echo none) as $(PYTHON) found:" \
			"install one and run make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "Python's venv module wanted, not found in $(PYTHON): install it (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@echo "Making .venv with the pinned dependencies: about 2 GB and a few minutes, this once."
	"$(PYTHON)" -m venv .venv
	$(VENV_PYTHON) -m pip install $(TORCH)
	@sed '/^torch==/d' constraints.txt > .venv/constraints.txt
	$(VENV_PYTHON) -m pip install -c .venv/constraints.txt -e ".[dev]"
	@echo "What the tests need of the extra [benchmarks], which is 190 MB as a whole:"
	$(VENV_PYTHON) -m pip install --no-deps -c .venv/constraints.txt lm-eval sacrebleu portalocker tabulate colorama lxml
	@pwd -P > $(INSTALLED)

sandbox: setup ## run the whole experiment on the embedded sandbox: no network, GPU or key
	$(WORKBOOK) run params/sandbox.yml

test: lint ## lint, then run all tests
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: setup ## check style and types without changing anything
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy

format: setup ## format code and notebooks, strip outputs from notebooks, note their defaults
	$(VENV_PYTHON) -m ruff check --fix .
	$(VENV_PYTHON) -m ruff format .
	$(VENV_PYTHON) -m nbstripout --keep-id notebooks/*.ipynb
	$(VENV_PYTHON) -m nbutils.experiment.defaults

figures: setup ## tables, figures and report from stored results, where these have changed (EXPERIMENT=params/sandbox.yml)
	$(WORKBOOK) run "$(EXPERIMENT)" --cell all
	$(WORKBOOK) report "$(EXPERIMENT)"

lab: setup ## open the notebooks in JupyterLab (ARGS="--port 9000 --no-browser", and --allow-root as root)
	@mkdir -p .venv/share/jupyter/lab/settings
	@echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}' \
		> .venv/share/jupyter/lab/settings/overrides.json
	$(VENV_PYTHON) -m jupyterlab notebooks $(ARGS)

clean: ## remove the environment and the caches; results in outputs/ stay
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info
	find nbutils tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | while IFS= read -r folder; do rm -rf "$$folder"; done
