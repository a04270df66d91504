# Two commands: `make quickstart` and `make test`. Each sets up .venv the first time. `make docs`: the site, into site/.
PYTHON ?= python3.11
ifeq ($(shell command -v $(PYTHON) 2>/dev/null),)
PYTHON := python3
endif
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: quickstart test lint docs
quickstart: .venv/.render
	$(BIN)/lightning-tl quickstart

test: .venv/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy docs/hooks docs/concepts
	$(BIN)/lint-imports

# strict: a broken link, a missing anchor, an unknown name in a docstring fail
docs: .venv/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Blender needs some X11 and GL libraries that a bare Debian lacks: said before anything is installed.
.venv/.render: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info[:2] == (3, 11) else "error: Blender as a Python package needs Python 3.11, this is %d.%d: make PYTHON=/path/to/python3.11" % sys.version_info[:2])'
	@$(PYTHON) -m data_gen.check
	$(PYTHON) -m venv .venv
	@echo "installing (some minutes the first time)"
	$(PIP) --editable '.[render]'
	@touch $@

.venv/.dev: .venv/.render
	$(PIP) --editable '.[render,dev,docs]'
	@touch $@
