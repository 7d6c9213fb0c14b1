# Needs Python 3.11 or newer with venv, and make; everything else is installed into .venv on the first run.
# Another interpreter: make demo PYTHON=/path/to/python3.12.  More options for pip: make demo PIP_OPTIONS='...'.

PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
OUT := out
PIP_OPTIONS ?=
ARGS ?=

# What an installation depends on: when one of these is newer than a stamp, the packages are brought up to date.
SOURCES := setup.py constraints.txt cvxlayers/_version.py
STAMP := $(VENV)/.installed-
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) -c constraints.txt

# Tests run in parallel processes, so the numeric libraries get one thread each.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help demo test lint test-lowest test-py313 types docs docs-serve notebooks bench clean
.DELETE_ON_ERROR:

help:  ## show this list
	@sed -n 's/^\([a-z0-9-]*\):.*  ## \(.*\)$$/make \1|\2/p' Makefile | awk -F '|' '{ printf "%-16s %s\n", $$1, $$2 }'

demo: $(STAMP)torch-plot  ## check a problem's gradients, then train a network that ends in it; plots in out/
	@mkdir -p $(OUT)
	$(BIN)/cvxlayers check examples/portfolio.py:problem --plot $(OUT)/check.png
	$(BIN)/python examples/train_portfolio.py --out $(OUT)/portfolio.png
	@echo "Plots: $(OUT)/check.png $(OUT)/portfolio.png"

test: $(STAMP)dev  ## run the tests (some of them: make test ARGS='tests/cones -k psd')
	@$(BIN)/cvxlayers doctor --warm  # once for all of the processes that run tests
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --durations=25 $(ARGS)

# What tells most of the package without a framework; whatever else is installed there (JAX) is tested in it as well.
TELLING := tests/contracts tests/layer tests/compiler tests/program tests/solvers
TOOLS := pytest pytest-xdist hypothesis packaging threadpoolctl

# The kernels of another Numba are kept beside its environment, not among those of the usual one.
test-lowest: .venv-lowest/.installed  ## run what tells most with the oldest versions that setup.py admits, and Numba's oldest
	NUMBA_CACHE_DIR=$(CURDIR)/.venv-lowest/kernels $(ONE_THREAD) .venv-lowest/bin/python -m pytest -n 2 $(or $(ARGS),$(TELLING))

# Without Numba, so that the other engines and the array operations carry the whole; tests of ECOS and IPM by name stay out.
test-py313: .venv-py313/.installed  ## run what tells most with Python 3.13, and without Numba
	$(ONE_THREAD) .venv-py313/bin/python -m pytest -n 2 $(or $(ARGS),$(TELLING) -k 'not ECOS and not IPM')

.venv-lowest/.installed: setup.py constraints.txt tests/support/lowest.py
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python tests/support/lowest.py ecos fast > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) -c .venv-lowest/lowest.txt -e '.[ecos,fast]' $(TOOLS)
	@touch $@

# ECOS stays out: there is no build of it for Python 3.13, and one from its sources crashes.
PYTHON313 ?= $(shell python3.13 -c '' 2>/dev/null && echo python3.13 || ls $(HOME)/.pyenv/versions/3.13*/bin/python3.13 2>/dev/null | tail -n 1)
.venv-py313/.installed: setup.py constraints.txt
	@test -n "$(PYTHON313)" || { echo "No Python 3.13 found: name one with make test-py313 PYTHON313=/path/to/python3.13"; exit 1; }
	$(PYTHON313) -m venv .venv-py313
	.venv-py313/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) -c constraints.txt -e '.[jax]' $(TOOLS)
	@touch $@

lint: $(STAMP)dev  ## check style and formatting with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)dev  ## check the types with mypy
	$(BIN)/mypy cvxlayers

# Where the site is served: make docs-serve ADDRESS=localhost:8123. --strict makes warnings errors; --quiet would hide them from it.
ADDRESS ?= localhost:8000
MKDOCS := NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs

# Notebooks that were not run since they were changed run first, a minute or so for all of them; with
# CVXLAYERS_NOTEBOOKS=short in their short mode. make notebooks runs all of them anew.
docs: $(STAMP)docs  ## build the documentation site in out/site, strictly: a broken link is an error
	@$(BIN)/cvxlayers doctor --warm  # once for all of the notebooks that run
	$(MKDOCS) build --strict --site-dir $(OUT)/site
	@echo "The site: $(OUT)/site/index.html"

docs-serve: $(STAMP)docs  ## show the documentation site, built anew whenever a file changes
	$(MKDOCS) serve --dev-addr $(ADDRESS)

notebooks: $(STAMP)docs  ## run the notebooks anew, for make docs to show (one of them: make notebooks ARGS=sudoku)
	@$(BIN)/cvxlayers doctor --warm
	$(BIN)/python docs/notebook_outputs.py $(ARGS)

bench: $(STAMP)bench  ## run the benchmarks (options: make bench ARGS='...')
	$(BIN)/python -m benchmarks.run $(ARGS)

clean:  ## remove plots, caches and build products; .venv stays
	rm -rf $(OUT) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# A stamp's name is its extras: .installed-torch-plot is the package with the extras torch and plot.
$(STAMP)%: $(SOURCES) | $(BIN)/pip
	@echo "Installing cvxlayers[$(subst -,$(comma),$*)] into $(VENV) (the first time may take some minutes) ..."
	@$(INSTALL) -e '.[$(subst -,$(comma),$*)]'
	@touch $@

$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) found: install Python 3.11 or newer, or name one with make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "cvxlayers needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1): name another with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

comma := ,
