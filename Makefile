# Everything runs in .venv, made from the pinned versions in constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow gpu-test lint bench docs parity peers schemas setup clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	# Torch first, at the pinned version. For a build other than your index's default (CPU only, another CUDA):
	# make setup PIP_TORCH_FLAGS="--index-url ..."
	$(BIN)/python -m pip install --quiet -c constraints.txt $(PIP_TORCH_FLAGS) torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(STAMP)

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/python experiment.py --out_dir=runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2

# Whole runs take both cores by themselves; beside other work their two threads would wait for one another.
test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow tests/pipeline
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal --ignore=tests/pipeline

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# A broken promise is told and makes the command fail, but the others are still measured.
bench: $(STAMP)
	@failed=0; for name in reading.py\ harvest reading.py\ cache_read steps.py\ trainer_overhead steps.py\ temporal_tax \
	  steps.py\ temporal_extra costs.py\ memory steps.py\ streaming_latency costs.py\ roofline steps.py\ scaling; do \
	  $(BIN)/python benchmarks/$$name || failed=1; done; \
	if test -x .peers/bin/python; then for name in train_step harvest_peers whole_run; do \
	  $(BIN)/python benchmarks/$$name.py || failed=1; done; fi; \
	if test -x .parity/bin/python; then $(BIN)/python benchmarks/evaluations.py || failed=1; fi; exit $$failed

docs: $(STAMP)
	$(BIN)/chronosae config --markdown > docs/configuration.md
	$(BIN)/python -m chronosae.cli.pages docs/architectures
	$(BIN)/python -c "import json; from chronosae.evals import result_schema; print(json.dumps(result_schema(), indent=2))" \
	  > docs/evaluations/result.schema.json

# TransformerLens and SAEBench pin other versions of our dependencies, so they live in an environment of their own.
.parity/.installed: tests/parity/requirements.txt
	$(PYTHON) -m venv .parity
	.parity/bin/python -m pip install --quiet torch==2.13.0
	.parity/bin/python -m pip install --quiet --no-deps -r tests/parity/requirements.txt
	touch .parity/.installed

parity: .parity/.installed
	JAXTYPING_DISABLE=1 PYTHONPATH=src .parity/bin/python -m pytest tests/parity

# SAEBench's published schemas, against which tests validate our results; no copy of them is kept here.
.schemas/.unpacked:
	rm -rf .schemas && mkdir .schemas
	$(BIN)/python -m pip download --quiet --no-deps sae-bench==0.6.0 -d .schemas
	$(BIN)/python -c "import glob, zipfile; z = zipfile.ZipFile(glob.glob('.schemas/*.whl')[0]); \
	  [open('.schemas/' + n.rsplit('/', 1)[1], 'wb').write(z.read(n)) for n in z.namelist() if n.endswith('.json') and 'eval_output_schema' in n]"
	touch .schemas/.unpacked

# The libraries that benchmarks/train_step.py compares with. dictionary-learning needs little of what it would bring.
.peers/.installed:
	$(PYTHON) -m venv .peers
	.peers/bin/python -m pip install --quiet $(PIP_TORCH_FLAGS) torch==2.13.0
	.peers/bin/python -m pip install --quiet eai-sparsify==1.3.3 sae-lens==6.54.12
	.peers/bin/python -m pip install --quiet --no-deps dictionary-learning==0.1.0
	touch .peers/.installed

peers: .peers/.installed

# Triton comes with CUDA builds of torch; beside a CPU build it tests the GPU's kernels in its interpreter.
.triton/.installed: $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps --target .triton triton==3.7.1
	touch .triton/.installed

gpu-test: .triton/.installed
	TRITON_INTERPRET=1 PYTHONPATH=$(CURDIR)/.triton $(BIN)/python -m pytest tests/kernels/test_gpu_kernels.py \
	  tests/kernels/test_gpu_context.py tests/kernels/test_gpu_compile.py tests/kernels/test_gpu_step.py

schemas: $(STAMP) .schemas/.unpacked

clean:
	rm -rf $(VENV) .parity .peers .schemas .triton
