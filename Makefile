# Two commands do everything: `make demo` and `make test`. Each target sets up what it needs first (tools/setup.sh).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-machines lint images smoke evidence bench lock clean

PYTHON_RUN := PYTHONPATH=python .venv/bin/python
SHELL_FILES := $(wildcard tools/*.sh bin/* .ci/run containers/*.sh tests/infra/*.sh tests/slurm/*.sh)
UV_COMPILE := ../.venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header $(UPGRADE)

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup:  ## make .venv and the Nextflow launcher (every other target calls it)
	@bash tools/setup.sh

# A launch folder of its own: -resume continues the last run of the folder, whichever that was.
demo: setup  ## simulate, train, reconstruct and score a small scan; ends with the place of its report
	@mkdir -p results/.demo
	@cd results/.demo && ../../.nextflow-dist/nextflow run ../../main.nf --study siemens --cpus_per_run 4 \
		--outdir "$(CURDIR)/results/demo" $$([[ -e .nextflow/history ]] && echo -resume)
	@echo "demo: the report is $(CURDIR)/results/demo/summary/report.html"

test: setup  ## all tests: unit, TensorFlow and pipeline, with the number that ran in each layer
	@bash tools/test.sh

test-fast: setup  ## the tests that take less than a minute together
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --maxprocesses 4 -m "not slow and not pipeline and not browser and not tensorflow and not docker and not slurm"

test-machines: setup  ## the tests that need more of the machine: a browser, Docker and Slurm (Debian's packages, installed if root and absent)
	@bash tools/test.sh machines

lint: setup  ## ruff, mypy, the layers of the package, shellcheck
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@PYTHONPATH=python .venv/bin/lint-imports
	@.venv/bin/shellcheck -x $(SHELL_FILES)
	@.venv/bin/hadolint containers/*/Dockerfile

images:  ## build the container images cpu and cuda (options: containers/build.sh)
	@bash containers/build.sh all

smoke:  ## check both images where they will run: unknown user, read-only, no network
	@version=$$(sed -n 's/^__version__ = "\(.*\)"$$/\1/p' python/ptychoflow/__init__.py); \
		for name in cpu cuda; do bash containers/smoke.sh "$${IMAGE_PREFIX:-ptychoflow}/$$name:$$version"; done

evidence: setup  ## rerun the measured results quoted in docs/evidence (two to three hours)
	@$(PYTHON_RUN) tools/evidence.py

bench: setup  ## print the speed of each stage, beside its bound where it has one
	@for script in $(sort $(wildcard benchmarks/[a-z]*.py)); do echo "== $$script"; $(PYTHON_RUN) "$$script"; done

lock: setup  ## resolve requirements/*.in anew into the lock files; UPGRADE=--upgrade takes newer versions
	@cd requirements && $(UV_COMPILE) uv.in -o uv.lock
	@cd requirements && $(UV_COMPILE) cpu.in -o cpu.lock
	@cd requirements && $(UV_COMPILE) -c cpu.lock light.in -o light.lock
	@cd requirements && $(UV_COMPILE) -c cpu.lock cuda.in -o cuda.lock
	@cd requirements && $(UV_COMPILE) -c cpu.lock dev.in -o dev.lock

clean:  ## delete caches and work folders; keeps .venv, the launcher and results
	@rm -rf work .nextflow .nextflow.log* results/.demo results/tests \
		.mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find python tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
