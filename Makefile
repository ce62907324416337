# Everything a person needs: `make demo` to see it, `make test` to trust it. `make help` lists the rest.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PROCESSES ?= 2
READY := $(VENV)/.ready
.DEFAULT_GOAL := help
.PHONY: help setup demo up test test-compose cov docs check bench lock clean
COV_TESTS ?= tests

help: ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(READY) ## make .venv with every pinned package

# uv resolves nothing here: it installs what the lock says, if the hash of each file is one of the lock's. The package
# itself is installed editable on top.
$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; say which Python ≥ 3.11 to use: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is older" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --require-hashes --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

demo: $(READY) ## train DKD against DKD-Align on real digits and watch it (DEMO_EXIT=1 ends by itself)
	@exec $(BIN)/python -m client.demo

up: $(READY) ## start the embedded stack: API, worker, dashboard
	@exec $(BIN)/dkd up

# Two at once fill two cores; loadscope keeps a module's tests, and what they share, in one process.
test: check ## lint, types and every test (PROCESSES=1 for one after the other)
	$(BIN)/pytest -q -n $(PROCESSES) --dist loadscope

test-compose: $(READY) ## build the images and use, kill and restart the stack in containers (needs Docker)
	DKD_TESTS_COMPOSE=1 $(BIN)/pytest -q tests/compose

cov: $(READY) ## run the tests with branch coverage (COV_TESTS="tests/core" for a part)
	$(BIN)/pytest -q -n $(PROCESSES) --dist loadscope --cov --cov-report=term --cov-report=html $(COV_TESTS)

docs: $(READY) ## build the documentation with its references into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: $(READY) ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) ## measure: start-up times, cost of the losses, training speed against a plain loop
	$(BIN)/python -m benchmarks

lock: $(READY) ## pin the newest versions that pyproject.toml allows, with the hashes of their files
	$(BIN)/uv pip compile --quiet --universal --no-emit-index-url --no-annotate --no-header --python-version 3.11 \
	  --generate-hashes --all-extras --group dev --group docs --upgrade pyproject.toml -o requirements.lock

clean: ## remove what was set up and what the demo left
	rm -rf $(VENV) .coverage .coverage.* htmlcov site .dkd .mypy_cache .pytest_cache .ruff_cache
