# `make demo` and `make test` do all the set-up on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
# the tests that `make test` leaves to `make test-all`
LONG := (long or compiles or browser or slurm)
DATA := $(or $(METRAD_DATA),data)
METRAD_SLURM_STATE ?= /var/lib/metrad-slurm
export METRAD_SLURM_STATE

.PHONY: help demo test test-all test-slurm check bench clean
help:           ## say what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 12

demo: .venv/run ## set up, then train and score a detector on scikit-learn's digits (no data to download)
	$(BIN)/python train.py experiment=demo

test: .venv/dev ## set up, then everything that CI checks: a few minutes
	$(MAKE) check

test-all: .venv/dev ## `make test`, then the long tests: kills, ranks, wheel, benchmarks, compiler, chromium, Slurm
	$(MAKE) check
	METRAD_REQUIRE_BROWSER=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal -m "$(LONG) and not slurm"
	$(MAKE) test-slurm

check:          ## lint, types, import layers, tests with coverage (in an environment that is set up)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	# a process a core, each with one thread: in models this small, threads only wait for each other;
	# slipcover, since tracing every call makes those of configuration take 1.7 times as long on Python 3.11
	OMP_NUM_THREADS=1 $(BIN)/python -m slipcover --branch --skip-covered --source src/metrad \
	  -m pytest -n auto --dist worksteal -m "not $(LONG)"

test-slurm: .venv/dev ## set up, start a Slurm of one node here, and test sweeps on it (as root, on Debian)
	tests/slurm/start.sh && SLURM_CONF=$$METRAD_SLURM_STATE/slurm.conf METRAD_REQUIRE_SLURM=1 OMP_NUM_THREADS=1 \
	  $(BIN)/pytest -m slurm tests/slurm; status=$$?; tests/slurm/stop.sh; exit $$status

bench: .venv/dev ## measure speed in short settings, one benchmark after another; each prints a table
	$(BIN)/python benchmarks/startup.py --rounds 3
	$(BIN)/python benchmarks/train_throughput.py --rounds 2 --steps 3 --no-compile
	$(BIN)/python benchmarks/predict_throughput.py --rounds 2 --count 256
	$(BIN)/python benchmarks/predict.py --rounds 2 --images 200 --good 100
	$(BIN)/python benchmarks/heads.py --rounds 5 --sizes small,medium
	$(BIN)/python benchmarks/sweep.py --rounds 1 --runs 4
	run=$$(mktemp -d)/run && $(BIN)/python train.py experiment=demo hydra.run.dir=$$run \
	  && $(BIN)/python benchmarks/embedding.py $$run --rounds 2 --images 512 \
	  && $(BIN)/python benchmarks/knn.py --embeddings $$run/embeddings/embeddings.safetensors --rounds 1 \
	    --sizes 1000,10000 --queries 1000 --sides 'metrad flat,metrad hnsw,faiss flat,sklearn cosine'; \
	  status=$$?; rm -rf $$(dirname $$run); exit $$status
ifneq ($(wildcard $(DATA)/FashionMNIST),)
	$(BIN)/python benchmarks/growth.py --data $(DATA) --factors 1,2,4 --share 0.1 --backbone convnet --image-size 28
	$(BIN)/python benchmarks/precision.py --data $(DATA) --seeds 2 --epochs 1 --share 0.1 backbone=convnet image_size=28
else
	@echo "left out: growth.py and precision.py, since there is no $(DATA)/FashionMNIST; train.py dataset=fmnist downloads it"
endif

.venv/run: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

.venv/dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:          ## remove the environment and all caches; data and runs stay
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache dist
