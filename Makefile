# Everything a person needs. `make demo` and `make test` work on a fresh machine: they make the environment first.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs/demo

.PHONY: env demo test test-slow test-faults lint bench clean

env: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: env
	$(BIN)/omnifed-sim --preset hospitals --image-size 96 --teacher-steps 40 --out $(OUT) --overwrite

test: env
	$(BIN)/python -m pytest -m "not slow"

test-slow: env
	$(BIN)/python -m pytest -m slow --ignore=tests/deployed

test-faults: env
	$(BIN)/python -m pytest -m slow tests/deployed

lint: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: env
	$(BIN)/python benchmarks/federation_overhead.py
	$(BIN)/python benchmarks/deployed_overhead.py
	$(BIN)/python benchmarks/coordinator_memory.py
	$(BIN)/python benchmarks/wire.py
	$(BIN)/python benchmarks/distill_cost.py
	$(BIN)/python benchmarks/phantom_difficulty.py
	$(BIN)/python benchmarks/latency_model.py
	$(BIN)/python benchmarks/architecture_search.py
	$(BIN)/python benchmarks/weight_search.py
	$(BIN)/python benchmarks/search_real.py --image-size 64 --full 6
	$(BIN)/python benchmarks/arms.py --preset hospitals --hold-out west --out runs/bench-hospitals

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache
