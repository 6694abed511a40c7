# `make demo` and `make test` do all the set-up on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
METRAD_SLURM_STATE ?= /var/lib/metrad-slurm
export METRAD_SLURM_STATE

.PHONY: help demo test test-slurm check bench clean
help:           ## say what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 12

demo: .venv/run ## set up, then train and score a detector on scikit-learn's digits (no data to download)
	$(BIN)/python train.py experiment=demo

test: .venv/dev ## set up, then everything that CI checks
	$(MAKE) check

check:          ## lint, types, import floors, tests with coverage (in an environment that is set up)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/coverage erase
	# a process a core, each with one thread: in models this small, threads only wait for each other
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal --cov=metrad --cov-report=term:skip-covered

test-slurm: .venv/dev ## set up, start a Slurm of one node here, and test sweeps on it (as root, on Debian)
	tests/slurm/start.sh && SLURM_CONF=$$METRAD_SLURM_STATE/slurm.conf METRAD_REQUIRE_SLURM=1 OMP_NUM_THREADS=1 \
	  $(BIN)/pytest -m slurm tests/slurm; status=$$?; tests/slurm/stop.sh; exit $$status

bench: .venv/dev ## measure speed; prints a table
	$(BIN)/python benchmarks/train_throughput.py
	$(BIN)/python benchmarks/heads.py --sizes small,medium

.venv/run: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

.venv/dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:          ## remove the environment and all caches; data and runs stay
	rm -rf .venv .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache dist
