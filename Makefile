# Everything runs from .venv, which is made from the lock files on first use. Needs Python 3.11+, make and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null || echo $(BIN)/uv)
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.PHONY: help install demo test check format lock bench bench-smoke clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/installed ## make .venv and install everything from the lock

$(VENV)/installed: requirements-dev.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@command -v uv >/dev/null 2>&1 || test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements-dev.lock
	@command -v uv >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet uv
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: install ## delete 1,200 customers of the built-in simulator and show the report (exit 3 of expunge is expected)
	@rm -rf .expunge/simulate
	@$(BIN)/expunge run examples/customers.csv --simulate; code=$$?; \
	 if [ $$code -ne 3 ]; then echo "demo: expected exit 3 (some records are not deleted), got $$code" >&2; exit 1; fi

test: install ## run every test; the acceptance tests mostly wait for processes, so four at a time
	$(BIN)/python -m pytest --ignore tests/acceptance
	$(BIN)/python -m pytest -n 4 tests/acceptance

check: install ## ruff, mypy strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## renew the lock files from pyproject.toml
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml -o requirements.lock
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 --extra dev pyproject.toml -o requirements-dev.lock

bench: install ## measure against what others would write, and against the ceiling (about 8 minutes)
	$(BIN)/python -m bench

bench-smoke: install ## run every benchmark tiny, so that it cannot rot (about 40 seconds)
	$(BIN)/python -m bench --smoke

clean: ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
