# make demo | test | test-slow | test-repeat | lint | dist | docs | clean. PYTHON: 3.10 to 3.13; VENV: where the packages go.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUNS ?= 10

.PHONY: demo test test-slow test-repeat lint dist docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist=worksteal

test-slow: $(VENV)/.installed-spark $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow -n 2 --dist=loadfile

# In a run that fails, the printed command repeats order and hashes, in one process.
test-repeat: $(VENV)/.installed
	@run=0; while [ $$((run += 1)) -le $(RUNS) ]; do \
	  seed=$$(od -An -N4 -tu4 /dev/urandom | tr -d ' '); \
	  echo "run $$run of $(RUNS): PYTHONHASHSEED=$$seed, --order_seed=$$seed"; \
	  PYTHONHASHSEED=$$seed $(BIN)/python -m pytest -q -x -n 2 --dist=worksteal --order_seed=$$seed || { \
	    echo "run $$run failed; to repeat: PYTHONHASHSEED=$$seed $(BIN)/python -m pytest -x --order_seed=$$seed" >&2; exit 1; }; \
	done

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Builds the source distribution, and the wheel from it.
dist: $(VENV)/.installed-dev
	rm -rf dist *.egg-info
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

# Strict: a broken link or a page that is missing fails. The site is in site/.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# The stamp is written last, so an installation that was interrupted starts again.
$(VENV)/.installed: requirements.txt dependencies.txt constraints.txt
	@$(PYTHON) -c 'import sys; ok = (3, 10) <= sys.version_info[:2] <= (3, 13); \
	  sys.exit(0 if ok else "error: Python 3.10 to 3.13 is needed. Received: %s. Fix: make PYTHON=python3.12" % sys.version.split()[0])'
	@if [ -e $(VENV) ] && [ ! -e $(VENV)/.begun ] && [ ! -e $@ ] && [ -n "$$(ls -A $(VENV))" ]; then \
	  echo "error: VENV must be new, or made by this Makefile. Received: $(VENV), which holds something else" >&2; exit 1; fi
	rm -rf $(VENV)
	mkdir -p $(VENV)
	touch $(VENV)/.begun
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements.txt
	touch $@

$(VENV)/.installed-spark: $(VENV)/.installed requirements-spark.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements-spark.txt
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt requirements-search.txt requirements-explore.txt \
  requirements-mlflow.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements-dev.txt
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed requirements-docs.txt constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements-docs.txt
	touch $@

clean:
	if [ -e $(VENV)/.begun ] || [ -e $(VENV)/.installed ]; then rm -rf $(VENV); fi
	rm -rf demo_output dist build site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
