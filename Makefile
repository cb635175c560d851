# Two commands do everything on a fresh machine: make quickstart, make test.
# PYTHON is the interpreter that makes the virtual environment (3.11 or newer).
PYTHON ?= python3
VENV ?= .venv
# Where this is set each of many processes compiles what it imports again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test quick-test lint clean

quickstart: $(VENV)/installed
	$(VENV)/bin/rlpt quickstart

test: lint
	$(VENV)/bin/python -m pytest

quick-test: lint
	$(VENV)/bin/python -m pytest -m 'not slow'

lint: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# What is never imported need not be compiled; what is, is when it is first.
# Marker files: installation runs again when what is to be installed changes.
$(VENV)/installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --no-compile --editable .
	touch $@

$(VENV)/installed-test: setup.py
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --no-compile --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
