# Every way to work on freecloud; CI calls these very targets. Needs Python 3.11 and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
SEEDS ?= 300
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup system demo test unit sim e2e conformance fuzz bench soak lint docs changelog lock clean

help: ## show this list
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(STAMP) ## make .venv; .venv/bin/freecloud is the command

$(STAMP): requirements-dev.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "freecloud needs Python 3.11: set PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --config-settings editable_mode=compat -e .
	@touch $@

system: ## install the Debian packages that some tests need (root only; those tests skip by name without)
	@sh tests/system-packages.sh

demo: setup ## five daemons, an app, kill -9 of the leader; KEEP=1 leaves it running
	$(BIN)/freecloud demo $(if $(KEEP),--keep)

test: setup system lint ## the whole suite
	SIM_SEEDS=$(SEEDS) $(PYTEST) tests -n 2 --dist loadscope --hypothesis-profile suite

unit: setup ## machines and parts
	$(PYTEST) tests/unit

sim: setup ## the simulator: SEEDS=n, or SEED=n to replay one
ifdef SEED
	$(BIN)/python -m tests.sim.run --seed $(SEED) --trace
else
	$(BIN)/python -m tests.sim.run --seeds $(SEEDS)
endif

e2e: setup system ## real daemons, real processes
	$(PYTEST) tests/e2e tests/acceptance

conformance: setup system ## other people's clients and cases
	$(PYTEST) tests/conformance

fuzz: setup ## parsers against generated input
	$(PYTEST) tests/fuzz

bench: setup ## every figure claimed, as a ratio beside a peer
	$(BIN)/python -m bench

soak: setup system ## everything at its full size, written to docs/measurements.md
	$(BIN)/python -m bench.soak

lint: setup ## ruff, mypy strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: setup ## rewrite the generated parts of docs/
	$(BIN)/python -m tests.tools.docs

changelog: setup ## fold changelog/ into CHANGELOG.md
	$(BIN)/python -m tests.tools.changelog

lock: setup ## pin the dependencies anew
	$(BIN)/pip-compile -q --upgrade --allow-unsafe --strip-extras --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links requirements-dev.in -o requirements-dev.txt
	$(BIN)/pip-compile -q --strip-extras --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links -c requirements-dev.txt requirements.in -o requirements.txt

clean: ## remove what the other targets made
	rm -rf $(VENV) .demo build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
