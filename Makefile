# make demo   set up, then build, verify, stream and train on the embedded example
# make test   set up, then pass the tests
# make bench  set up, install the peers, measure everything
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed

.PHONY: setup demo test lint bench soak schemas clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt $(wildcard mmdata/native/*.[ch])
	$(PYTHON) -c 'import sys; sys.exit("mmdata needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; set PYTHON=...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,dali]'
	touch $(STAMP)

demo: setup
	$(BIN)/python -m mmdata.testing.demo demo

# Hundreds of processes import the packages, compiled once: also where the environment asks for no bytecode.
test: setup
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -m 'not soak' -n auto --dist worksteal

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m mmdata.schemas --check schemas

soak: setup
	$(BIN)/python -m mmdata.testing.soak
	$(BIN)/python -m pytest -m soak
	$(BIN)/python -m pytest -m 'not soak' -n auto --dist worksteal --hypothesis-profile=search

# BENCH=--quick: small sizes. A peer that cannot be installed is told as missing.
bench: setup
	-$(BIN)/python -m benchmarks.peers
	$(BIN)/python -m benchmarks $(BENCH)

schemas: setup
	$(BIN)/python -m mmdata.schemas --write schemas

clean:
	rm -rf demo runs build dist *.egg-info
