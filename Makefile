PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python -m

.PHONY: demo test test-fast test-oldest lint docs

demo: $(VENV)/ready  ## the quickstart, on images that need no download
	$(RUN) src.train

test: $(VENV)/ready
	$(RUN) pytest -n 2 --dist worksteal --durations=20

test-fast: $(VENV)/ready  ## without what starts a run in a process of its own or takes seconds
	$(RUN) pytest -n 2 --dist worksteal -m "not slow and not ddp"

# the oldest versions that pyproject.toml allows, in an environment of their own
test-oldest: .venv-oldest/ready
	.venv-oldest/bin/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/ready
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

docs: $(VENV)/ready  ## the pages of docs/ as a site: site/index.html
	$(RUN) mkdocs build --strict

# the versions that were tested; to try others: pip install -e . without the constraints
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --upgrade pip
	$(RUN) pip install --quiet --constraint constraints.txt --editable . --group dev
	touch $@

.venv-oldest/ready: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --upgrade pip
	.venv-oldest/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable . --group dev
	touch $@
