# `make demo` and `make test` set everything up by themselves, in .venv; a second run reuses it.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test browser lint types docs bench clean

.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: .venv/.ready
	$(BIN)/polykit analyze --pruner force --pruner magnitude --metric ig

test: .venv/.ready
	$(BIN)/python -m pytest

browser: .venv/.ready
	$(BIN)/python -m pytest -m browser tests/browser

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.ready
	$(BIN)/mypy

docs: .venv/.ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: .venv/.ready
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

clean:
	rm -rf .venv site runs
