# Everything a person needs. `make demo` and `make test` work on a fresh machine: they make the environment first.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs/demo
DATA ?= ../shared/data
EDGE_OUT ?= runs/bench-edge
SBOM ?= dist/omnifed.cdx.json
PAPER := omnisegnet:compact,omnisegnet:balanced,omnisegnet:accurate
EDGE := omnisegnet:compact-edge,omnisegnet:balanced-edge,omnisegnet:accurate-edge
RIVALS := cmunext-s,cmunext,cmunext-l,unet,segformer-b0,swinunetr
BASE := omnisegnet:compact,stem_stride=2,fusion=depthwise
LEVERS := omnisegnet:compact,stem_stride=2,$(BASE),$(BASE),head=shuffle,$(BASE),upsample=nearest,$(BASE),expansion=2,$(BASE),se=stage,$(BASE),se=false

.PHONY: env demo test test-slow test-faults lint bench bench-edge sbom clean

env: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: env
	$(BIN)/omnifed-sim --preset hospitals --image-size 96 --teacher-steps 40 --out $(OUT) --overwrite

test: env
	$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

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
	$(BIN)/python benchmarks/predict_cost.py
	$(BIN)/python benchmarks/vault_cost.py
	$(BIN)/python benchmarks/robust.py
	$(BIN)/python benchmarks/secagg_cost.py
	$(BIN)/python benchmarks/private_overhead.py
	$(BIN)/python benchmarks/dp_cost.py
	$(BIN)/python benchmarks/hostile_dicom.py --files 10000
	$(BIN)/python benchmarks/sandbox_cost.py
	$(BIN)/python benchmarks/arms.py --preset hospitals --hold-out west --out runs/bench-hospitals

# Students and rivals on real sites: Dice, latency, memory, report with a Pareto plot. Hours; what is there is not made again.
bench-edge: env
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/edge_dice.py --data $(DATA) --networks $(EDGE),$(RIVALS),$(LEVERS) \
	  --image-size 128 --steps 300 --batch 8 --out $(EDGE_OUT)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/edge_latency.py --networks $(PAPER),$(EDGE),$(RIVALS),$(LEVERS) \
	  --dice --data $(DATA) --out $(EDGE_OUT)
	$(BIN)/python benchmarks/edge_report.py $(EDGE_OUT) --pair omnisegnet:compact-edge cmunext-s \
	  --pair omnisegnet:balanced-edge cmunext --pair omnisegnet:accurate-edge cmunext-l

# Every package of the environment with its version, as CycloneDX; the same environment gives the same file.
sbom: env
	mkdir -p $(dir $(SBOM))
	$(BIN)/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml --sv 1.6 -o $(SBOM) $(BIN)/python

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache
