PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python -m

.PHONY: demo test lint

demo: $(VENV)/ready  ## the quickstart, on images that need no download
	$(RUN) src.train

test: $(VENV)/ready
	$(RUN) pytest

lint: $(VENV)/ready
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

# the versions that were tested; to try others: pip install -e . without the constraints
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --upgrade pip
	$(RUN) pip install --quiet --constraint constraints.txt --editable . --group dev
	touch $@
