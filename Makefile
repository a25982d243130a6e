# Small commands for those who work on tabrt; the environment is the one that the README makes.
PYTHON ?= .venv/bin/python

.PHONY: style format test types

style:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

types:
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest
