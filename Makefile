# Everything runs from .venv, which is made from the lock files on first use. Needs Python 3.11+, make and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
UV := $(shell command -v uv 2>/dev/null || echo $(BIN)/uv)
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.PHONY: help install install-bench demo test check format lock images bench bench-web bench-events bench-smoke soak clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/installed ## make .venv and install everything from the lock

$(VENV)/installed: requirements-dev.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@command -v uv >/dev/null 2>&1 || test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements-dev.lock
	@command -v uv >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet uv
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: install ## delete 1,200 customers of the built-in simulator and show the report (exit 3 of expunge is expected)
	@rm -rf .expunge/simulate
	@$(BIN)/expunge run examples/customers.csv --simulate; code=$$?; \
	 if [ $$code -ne 3 ]; then echo "demo: expected exit 3 (some records are not deleted), got $$code" >&2; exit 1; fi

# Tests of the pace measure time, so they run alone; all others wait more than they compute. Playwright leaves an event loop
# running, where no asynchronous test can run: a process of its own.
test: install ## run every test
	$(BIN)/python -m pytest tests/integration/test_pacing.py tests/acceptance/test_rate.py
	$(BIN)/python -m pytest -n 2 --ignore tests/acceptance --ignore tests/browser --ignore tests/integration/test_pacing.py
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/browser
	$(BIN)/python -m pytest -n 4 --dist worksteal --ignore tests/acceptance/test_rate.py tests/acceptance

check: install ## ruff, mypy strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## renew the lock files from pyproject.toml
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 --extra xlsx pyproject.toml -o requirements.lock
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 --extra dev pyproject.toml -o requirements-dev.lock
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 bench/requirements.in -o bench/requirements.lock

images: install ## take the pictures of docs/web.md anew; needs chromium
	$(BIN)/python -m tests.browser.images docs/images

install-bench: install $(BENCH)/installed ## make .venv-bench as well: rivals, and what draws plots

$(BENCH)/installed: bench/requirements.lock | $(VENV)/installed
	@test -x $(BENCH)/bin/python || $(PYTHON) -m venv --without-pip $(BENCH)
	$(UV) pip sync --quiet --python $(BENCH)/bin/python --require-hashes bench/requirements.lock
	@touch $@

bench: install-bench ## measure all that is promised, rivals included, as one table (about 25 minutes)
	$(BIN)/python -m bench

bench-web: install ## measure expunge web: the batch page, fifty followers, a million rows in and out (three minutes)
	$(BIN)/python -m bench.web

bench-events: install ## measure whether one listener takes 10,000 events a second out of a Redis Stream (three minutes)
	$(BIN)/python -m bench.events

soak: install-bench ## measure whether memory stays flat (20 minutes)
	$(BIN)/python -m bench.soak

bench-smoke: install-bench ## run every benchmark tiny, so that it cannot rot (about a minute)
	$(BIN)/python -m bench --smoke

clean: ## remove .venv and caches
	rm -rf $(VENV) $(BENCH) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
