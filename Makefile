# make help        this list
# make replicate   train, attack, draw and build the site on real data (quick profile)
# make test        unit tests, every chapter checked by nbval and rerun in the smoke profile, the site in a browser
# make site-test   the built site in a browser alone; screenshots go to _build/screenshots
# make link-check  links to other hosts; needs a network
# make book        build the site from the published records; no network
# make chapters    execute the committed chapters again, in place
# make paper       the paper's own recipe at every temperature: hours to days, resumable
# make bench       measure speed against peers
# make fault-test  kill, crowd and starve runs, and compare what is on record afterwards; minutes
# make licences    list every requirement with its licence in THIRD_PARTY.md
# make audit       ask pip-audit whether a requirement has a known vulnerability; needs a network
# make lint        ruff and mypy
PYTHON ?= python3
BIN := .venv/bin
STORE ?= _build/records
DISK := $(if $(filter Linux,$(shell uname -s)),7,2)
export PYDEVD_DISABLE_FILE_VALIDATION = 1
unexport PYTHONDONTWRITEBYTECODE  # where it is set, each of the many processes of a run would compile PyTorch's sources anew

help:
	@sed -n 's/^# make/make/p' Makefile

.PHONY: help setup replicate test site-test link-check book chapters paper bench fault-test licences audit lint clean

setup: .venv/ready

.venv/ready: requirements.txt requirements-attacks.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@[ -d .venv ] || $(PYTHON) -c 'import shutil, sys; free = shutil.disk_usage(".").free / 1e9; sys.exit(0 if free > $(DISK) else f"setup needs $(DISK) GB of disk, most of it for PyTorch; {free:.1f} GB are free here")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --no-compile -r requirements.txt -r requirements-attacks.txt
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	@touch $@

replicate: setup
	$(BIN)/distill data mnist cifar10
	$(BIN)/distill run --profile quick --stages train,attack,split,stops,product,gallery --processes auto --store $(STORE)
	$(BIN)/python book/build.py --profile quick --store $(abspath $(STORE))

test site-test: export DISTILL_STORE = $(abspath _build/none)
test: export OMP_NUM_THREADS = 1
test: setup
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --nbval --nbval-kernel-name=python3 $(wildcard tests/test_*.py) book
	$(MAKE) site-test

site-test: setup
	$(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder tests/site

link-check: setup
	$(BIN)/python book/build.py --links

book: setup
	$(BIN)/python book/build.py

chapters: setup
	$(BIN)/python book/build.py --execute

paper: setup
	$(BIN)/distill run --profile paper

bench: setup
	$(BIN)/python benchmarks/run.py

fault-test: setup
	$(BIN)/python tests/faults.py

licences: setup
	$(BIN)/python .ci/licences.py

audit: setup
	$(PYTHON) -m venv _build/audit
	_build/audit/bin/python -m pip install --disable-pip-version-check -q pip-audit
	_build/audit/bin/pip-audit --requirement requirements.txt --no-deps --disable-pip --strict || { echo "make audit: a vulnerability, or a package that its service could not be asked about (see above)"; exit 1; }

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf _build .venv
