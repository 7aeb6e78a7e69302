# `make demo` and `make test` need nothing but Python 3.11+ and make: each prepares .venv on its first run.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: install demo test lint clean

install: $(STAMP)

# PyTorch goes first: an unpinned torch would bring gigabytes of GPU libraries.
$(STAMP): pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(VENV)/bin/python examples/demo.py

# Two at a time, but for what a busy machine would spoil; a file's tests share fixtures, caches and a Ray.
test: install lint
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not serial"
	$(VENV)/bin/python -m pytest -m serial

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
