# SIEIS needs nothing but python3 (3.11 or newer) and make: every target brings its own environment into .venv first.
#
# PYTHON=...   the interpreter to build .venv with (else: python3, or the newest python3.X found that fits)
# UV=...       a uv of your own (else: the pinned one is installed into .venv-tools)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

UV_VERSION := 0.13.9
TOOLS := .venv-tools
BIN := .venv/bin
READY := .venv/.ready
UV ?= $(TOOLS)/bin/uv
export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := .venv
# Where it is set, every process would compile Dagster, MLflow and the rest anew: five seconds each, half the test time.
unexport PYTHONDONTWRITEBYTECODE

# Workers of the test run: four on two cores, since the slowest tests wait (for groups to form, for processes to die).
# A worker that dies ends the run: a new one in its place would wait for ever for the dead one's files (pytest-xdist 3).
# One thread each for Polars and OpenMP: four workers of two threads on two cores cost a tenth more.
WORKERS ?= 4
# Each starts servers of its own; more of them than cores would make the servers' answers late.
SERVICE_WORKERS ?= 2
ROUNDS ?= 30
DATA ?=
REPORT ?=
ARGS ?=

define FIND_PYTHON
fits() { "$$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (4,))' >/dev/null 2>&1; }; \
python=''; \
for candidate in $${PYTHON:-$(PYTHON)} $(if $(PYTHON),,python3 python3.13 python3.12 python3.11 python3.14); do \
	if fits "$$candidate"; then python=$$("$$candidate" -c 'import sys; print(sys.executable)'); break; fi; \
done; \
if [ -z "$$python" ]; then \
	echo 'SIEIS needs Python 3.11 or newer; $(if $(PYTHON),$(PYTHON) is not,none was found). Install one, or say where it is: make PYTHON=/path/to/python3.12 ...' >&2; exit 1; \
fi
endef

.PHONY: demo up down services-up services-down services-status test test-services drills check format bench docs help clean

demo: $(READY) ## load, stream, derive, query and report; DATA=readings.txt.gz (else generated), REPORT=report.json
	$(BIN)/sieis demo $(if $(DATA),--data '$(DATA)') $(if $(REPORT),--report '$(REPORT)')

up: $(READY) ## start every part in the background and print the addresses
	$(BIN)/sieis up --detach $(ARGS)

down: $(READY) ## stop what `make up` started
	$(BIN)/sieis down

services-up: $(READY) ## install and start the real servers (ARGS='--only kafka,influxdb')
	$(BIN)/python -m tools.services up $(ARGS)

services-down: $(READY) ## stop them (ARGS=--delete removes their data)
	$(BIN)/python -m tools.services down $(ARGS)

services-status: $(READY) ## how each of them is
	$(BIN)/python -m tools.services status $(ARGS)

test: $(READY) ## the tests that need no server (ARGS='-k name' for some)
	POLARS_MAX_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart=0 -m 'not services and not slow' $(ARGS)

# Installed first: a build of minutes is no part of a test's time.
test-services: $(READY) ## the tests on real servers (installed first where they are missing), and the slow ones
	$(BIN)/python -m tools.services install
	$(BIN)/pytest -q -n $(SERVICE_WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart=0 --durations=15 -m 'services or slow' $(ARGS)

# 30 random kills each, outages of two minutes and storms to match: an hour or two.
drills: $(READY) ## the drills at full length (ROUNDS=30; ARGS='-k name' for some)
	$(BIN)/python -m tools.services install
	SIEIS_TEST_ROUNDS=$(ROUNDS) $(BIN)/pytest -v -rA --durations=0 -n $(SERVICE_WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart=0 -m drill $(ARGS)

check: $(READY) $(UV) ## lint, format, types, layers, lock file
	@failed=''; \
	run() { echo "-- $$*"; "$$@" || failed="$$failed\n   $$*"; }; \
	run $(BIN)/ruff check .; \
	run $(BIN)/ruff format --check .; \
	run $(BIN)/pyright; \
	run $(BIN)/lint-imports; \
	run $(UV) lock --check; \
	if [ -n "$$failed" ]; then echo -e "make check: failed:$$failed" >&2; exit 1; fi

format: $(READY) ## rewrite the code in the agreed form
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

bench: $(READY) ## run the benchmarks; ARGS='parse load' for some
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(READY) ## write .env.example, docs/settings.md and docs/cli.md anew from the code
	$(BIN)/python -m tools.docs

clean: ## remove the environments and caches; data (var/) stays
	rm -rf .venv $(TOOLS) .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist
	find . -name __pycache__ -type d -not -path './var/*' -prune -exec rm -rf {} +

help: ## this list
	@echo 'SIEIS: make TARGET'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# -- the environment -----------------------------------------------------------------------------------------------

# Redone only when what it is made from changes.
$(READY): uv.lock pyproject.toml Makefile | $(UV)
	@$(FIND_PYTHON); \
	echo "Preparing .venv with $$python (the first time: a minute or two) ..."; \
	$(UV) sync --frozen --quiet --python "$$python"
	@touch $@

# uv lives in an environment of its own: `uv sync` keeps .venv to exactly what uv.lock says.
$(TOOLS)/bin/uv:
	@$(FIND_PYTHON); \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$$python cannot make virtual environments. On Debian or Ubuntu: apt install python3-venv" >&2; exit 1; \
	fi; \
	"$$python" -m venv $(TOOLS); \
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check 'uv==$(UV_VERSION)' || { rm -rf $(TOOLS); exit 1; }
