# Small commands for those who work on tabrt; the environment is the one that the README makes.
PYTHON ?= .venv/bin/python

.PHONY: style format types docs test test-tensorrt release

style:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

types:
	$(PYTHON) -m mypy

# The site, into site/; with warnings as errors.
docs:
	$(PYTHON) -m mkdocs build --quiet

test:
	$(PYTHON) -m pytest

# Optional: real TensorRT engines of every variant, built without a GPU. Fetches 1.2 GB into an environment of its own.
test-tensorrt:
	python3 -m venv .venv-rtx
	.venv-rtx/bin/pip install --quiet --editable '.[export]' torch-tensorrt-rtx==2.13.0 torch==2.13.0 pytest pytest-xdist
	.venv-rtx/bin/python -m pytest tests/test_tensorrt_build.py -v

# What a release is: built, installed into an empty environment, tried there, and its checksums. See docs/release.md.
release:
	rm -rf dist
	$(PYTHON) -m pip install --quiet "build>=1.2,<2"
	$(PYTHON) -m build --outdir dist .
	PYTHON=$(PYTHON) bash tools/try-release dist
	cd dist && sha256sum *.whl *.tar.gz > SHA256SUMS
