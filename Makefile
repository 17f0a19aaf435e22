# make help        this list
# make replicate   train, attack, draw and build the site on real data (quick profile)
# make test        unit tests, every chapter checked by nbval, every chapter rerun in the smoke profile
# make book        build the site from the published records; no network
# make chapters    execute the committed chapters again, in place
# make paper       the paper's own recipe at every temperature: hours to days, resumable
# make bench       measure speed against peers
# make lint        ruff and mypy
PYTHON ?= python3
BIN := .venv/bin
STORE ?= _build/records
export PYDEVD_DISABLE_FILE_VALIDATION = 1

help:
	@sed -n 's/^# make/make/p' Makefile

.PHONY: help setup replicate test book chapters paper bench lint clean

setup: .venv/ready

.venv/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --no-compile -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	@touch $@

replicate: setup
	$(BIN)/distill data mnist cifar10
	$(BIN)/distill run --profile quick --store $(STORE)
	$(BIN)/python book/build.py --profile quick --store $(abspath $(STORE))

test: setup
	$(BIN)/python -m pytest
	DISTILL_STORE=$(abspath _build/none) $(BIN)/python -m pytest --nbval --nbval-kernel-name=python3 -p no:cacheprovider book

book: setup
	$(BIN)/python book/build.py

chapters: setup
	$(BIN)/python book/build.py --execute

paper: setup
	$(BIN)/distill run --profile paper

bench: setup
	$(BIN)/python benchmarks/run.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf _build .venv
