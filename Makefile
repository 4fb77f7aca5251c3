# `make help` lists what can be made.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo "$$name" && break; done)
VENV := .venv
BIN := $(VENV)/bin
DEMO_READY := $(VENV)/.demo-ready
DEV_READY := $(VENV)/.dev-ready
CODE := agent controller_client tests
WORKERS ?= 2
SEED := $(or $(SEED),$(shell od -An -N4 -tu4 /dev/urandom | tr -d " "))
FUZZ ?= 1

.PHONY: help demo test test-faults bench deps fault-tools bench-tools lint format proto proto-baseline clean

help: ## show this
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 18

demo: $(DEMO_READY) ## save and restore a real workspace here; ARGS="--workspace PATH --keep ..." for more
	@$(BIN)/gpusnap demo $(ARGS)

test: deps lint ## run every check and test but those that break things; ARGS="-k name" for some
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not slow" --ignore tests/faults $(ARGS)

# Everything that is left to chance follows from SEED, which pytest prints.
test-faults: deps fault-tools $(DEV_READY) ## break everything that can break; SEED=n repeats a run, FUZZ=10 is longer
	GPUSNAP_SEED=$(SEED) GPUSNAP_FUZZ=$(FUZZ) $(BIN)/pytest -n $(WORKERS) --dist worksteal \
		--hypothesis-seed=$(SEED) $(ARGS) tests/faults

bench: $(DEV_READY) bench-tools ## measure beside other tools; ARGS="--size quick --rounds 1 ..." for less, ARGS=--help for more
	@$(BIN)/python -m tests.benchmarks.run $(ARGS)

deps: ## make sure that the programs which tests run are here
	@missing=; \
	for program in tar:tar lz4:lz4 openssl:openssl setpriv:util-linux mkfs.btrfs:btrfs-progs; do \
		PATH="$$PATH:/usr/sbin" command -v "$${program%%:*}" >/dev/null || missing="$$missing $${program##*:}"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing$$missing"; \
		{ apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; } \
			>/dev/null || echo "could not install$$missing: the tests that need them will fail or be skipped"; \
	else \
		echo "missing:$$missing; install them, or the tests that need them will fail or be skipped"; \
	fi

# Whatever cannot be installed is skipped by name in the tests.
fault-tools: ## install the tools that break things, where that is possible
	@missing=; \
	for program in faketime:faketime gcc:gcc; do \
		command -v "$${program%%:*}" >/dev/null || missing="$$missing $${program##*:}"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing$$missing"; \
		apt-get update -q >/dev/null || true; \
		for package in $$missing; do \
			DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$$package" >/dev/null \
				|| echo "could not install $$package"; \
		done; \
	else \
		echo "missing:$$missing; install them, or their tests are skipped"; \
	fi

# Whatever cannot be installed is skipped by name in the benchmark. It starts nginx itself and wants no service of it.
bench-tools: ## install the tools that the benchmark compares with, where that is possible
	@missing=; \
	for program in restic rclone nginx lz4 openssl; do \
		PATH="$$PATH:/usr/sbin" command -v "$$program" >/dev/null || missing="$$missing $$program"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing$$missing"; \
		apt-get update -q >/dev/null || true; \
		for package in $${missing/nginx/nginx-light}; do \
			DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$$package" >/dev/null \
				|| echo "could not install $$package"; \
		done; \
		if [[ "$$missing" == *nginx* && -d /run/systemd/system ]]; then systemctl disable --now --quiet nginx || true; fi; \
	else \
		echo "missing:$$missing; install them to compare with them"; \
	fi

lint: $(DEV_READY) ## check style, types, layers and the proto
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf breaking --against proto/baseline.binpb

format: $(DEV_READY) ## format the code and sort its imports
	$(BIN)/ruff check --fix --select I
	$(BIN)/ruff format

proto: $(DEV_READY) ## write the Python code of proto/gpusnap/v1 anew
	PYTHON="$(CURDIR)/$(BIN)/python" proto/generate.sh

proto-baseline: $(DEV_READY) ## take the proto of now as what must not be broken; for releases
	$(BIN)/buf build -o proto/baseline.binpb --exclude-source-info

clean: ## remove what was made here
	rm -rf $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

# gpusnap is installed editable, so only a change of its dependencies asks for a new installation.
$(DEMO_READY): pyproject.toml | $(BIN)/python
	@echo "installing gpusnap and what it needs into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

$(DEV_READY): pyproject.toml | $(BIN)/python
	@echo "installing gpusnap and what it needs into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,dev]'
	@touch $@ $(DEMO_READY)

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { echo "Python 3.10 or newer is needed; name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment: install its venv module (apt-get install python3-venv)" >&2; exit 1; }
