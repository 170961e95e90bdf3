# `make demo` and `make test` set everything up by themselves, in .venv; a second run reuses it.
# LOCK=requirements/ci.txt installs exactly what that file names, in the Python that it was made for:
# without looking for dependencies, since a newer release of one would be no match; then it checks that all are there.
PYTHON ?= python3
LOCK ?=
BIN := .venv/bin

.PHONY: demo test browser fuzz lint types docs licences audit lock bench clean

.venv/.ready: pyproject.toml $(LOCK)
	$(PYTHON) -m venv .venv
ifeq ($(LOCK),)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
else
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement $(LOCK)
	$(BIN)/python -m pip check
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
endif
	touch $@

demo: .venv/.ready
	$(BIN)/polykit analyze --pruner force --pruner magnitude --metric ig

test: .venv/.ready
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile

browser: .venv/.ready
	$(BIN)/python -m pytest -m browser tests/browser

fuzz: .venv/.ready
	POLYKIT_FUZZ=10000 $(BIN)/python -m pytest tests/fuzz

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.ready
	$(BIN)/mypy

docs: .venv/.ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

licences: .venv/.ready
	$(BIN)/python website/licences.py

audit: .venv/.ready
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement requirements/ci.txt

lock: .venv/.ready
	$(BIN)/python requirements/lock.py

bench: .venv/.ready
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

clean:
	rm -rf .venv site runs
