# `make demo` runs a comparison, and `make test` runs all tests. `make help` lists the other targets.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PROCESSES ?= 2
READY := $(VENV)/.ready
.DEFAULT_GOAL := help
.PHONY: help setup demo up test test-compose cov docs check bench lock sbom advisories helm clean
COV_TESTS ?= tests

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(READY) ## create .venv with every pinned package

# Every file is checked against its hash in the lock: first uv and setuptools, then what uv installs. It resolves no
# versions. At last this package is installed in editable mode, which builds it with the locked setuptools.
$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; select another Python ≥ 3.11 with: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is older" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	awk '/^[^ ]/ { keep = /^(setuptools|uv)==/ } keep' requirements.lock >$(VENV)/build.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/build.lock
	$(BIN)/uv pip install --quiet --compile-bytecode --require-hashes --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY) ## compare DKD with DKD-Align on real digits (DEMO_EXIT=1 exits at the end)
	@exec $(BIN)/python -m client.demo

up: $(READY) ## start the embedded stack: API, worker, dashboard
	@exec $(BIN)/dkd up

# Two processes use two cores, so each computes with one thread: threads that wait for each other took a quarter of the
# CPU's time. loadscope runs the tests of a module in one process, because they share fixtures.
# Bytecode is compiled first: where PYTHONDONTWRITEBYTECODE is set, each of the many programs that tests start would
# compile its sources again, a fifth of a backend's start.
test: check ## run lint, type checks and every test (PROCESSES=1 for one process)
	$(BIN)/python -m compileall -q backend benchmarks client common core dashboard dkd_lab worker
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(PROCESSES) --dist loadscope

test-compose: $(READY) ## build the images and test the stack in containers, with kills and restarts (needs Docker)
	DKD_TESTS_COMPOSE=1 $(BIN)/pytest -q tests/compose

cov: $(READY) ## run the tests with branch coverage (COV_TESTS="tests/core" for a part)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(PROCESSES) --dist loadscope --cov --cov-report=term --cov-report=html $(COV_TESTS)

docs: $(READY) ## build the documentation and its references in site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: $(READY) ## run lint and type checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) ## measure start-up times, the losses, and the training speed against a plain loop
	$(BIN)/python -m benchmarks

sbom: ## write the SBOM of each image that was built to sbom/ (needs Docker)
	@mkdir -p sbom
	@for image in $${DKD_APP_IMAGE:-dkd-lab-app} $${DKD_WORKER_IMAGE:-dkd-lab-worker}; do \
	  file=sbom/$$(basename $$image | tr : -).cdx.json; \
	  docker run --rm --network none $$image cat /usr/share/dkd-lab/sbom.cdx.json >$$file.partial || exit 1; \
	  mv $$file.partial $$file; echo $$file; \
	done

advisories: $(READY) ## look for advisories about the locked packages, if their database can be reached
	@$(BIN)/python -m supply_chain.advisories

helm: $(READY) ## install helm into .venv, for the tests of the chart (Linux, x86-64)
	@test -x $(BIN)/helm || $(BIN)/python -m charts.get_helm $(BIN)/helm

lock: $(READY) ## pin the newest versions that pyproject.toml allows, with the hashes of their files
	$(BIN)/uv pip compile --quiet --universal --no-emit-index-url --no-annotate --no-header --python-version 3.11 \
	  --generate-hashes --all-extras --group dev --group docs --group build --group sbom --group audit --upgrade pyproject.toml -o requirements.lock

clean: ## remove the environment, caches, and the files of the demo
	rm -rf $(VENV) .coverage .coverage.* htmlcov site sbom .dkd .mypy_cache .pytest_cache .ruff_cache
