# Two commands do all the set-up: `make demo` and `make test`. Only python3 (with venv) and make are needed.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

.PHONY: help demo test selftest lint clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   set up, then audit two deletions on embedded data and write PDF reports"
	@echo "make test   set up, then lint, type check and test"
	@echo "make selftest   set up, then audit the auditor: sixteen checks whose right answer is known"

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --upgrade pip
	$(RUN)/python -m pip install --quiet --editable '.[dev]'
	@# Beside a folder of its own name Python would find that folder first; the path of the checkout settles it.
	@$(RUN)/python -c "import pathlib, sysconfig; pathlib.Path(sysconfig.get_path('purelib'), 'unlearnkit-checkout.pth').write_text(str(pathlib.Path.cwd()))"
	@touch $@

demo: $(VENV)/.ready
	$(RUN)/unlearnkit demo

lint: $(VENV)/.ready
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

test: lint
	@# Files in the order of tests/conftest.py: by default those with few tests, the longest ones, come last.
	$(RUN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

selftest: $(VENV)/.ready
	$(RUN)/unlearnkit selftest --long

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
