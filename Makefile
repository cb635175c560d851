# Two commands do everything on a fresh machine: make quickstart, make test.
# PYTHON is the interpreter that makes the virtual environment (3.11 or newer).
PYTHON ?= python3
VENV ?= .venv
UV ?= uv>=0.9,<1
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

# Marker files: installation runs again when setup.py changes. uv unpacks many
# packages at once, in a quarter of pip's time; it takes them from PyPI, or where
# UV_DEFAULT_INDEX says. UV= leaves it out; pip also installs where it fails.
$(VENV)/installed: setup.py
	$(PYTHON) -m venv $(VENV)
	test -n '$(UV)' && $(VENV)/bin/python -m pip install --quiet '$(UV)' \
	  && $(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --editable . \
	  || $(VENV)/bin/python -m pip install --quiet --no-compile --editable .
	touch $@

# By pip, so that an index it is configured for (of CPU builds of torch) counts.
$(VENV)/installed-test: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --no-compile --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
