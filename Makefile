# Every target but gpu, gpu-kit and clean first sets up .venv from requirements.lock where that has not been done.
#   make reproduce PROFILE=small ONLY=skd/table1_accuracy PARAMS="-p ipcs=[1]"
#   make test ARGS="-k book"
PROFILE ?= smoke
PYTHON ?= python3
MINUTES ?= 9
OUT ?= runs/gpu_out
DEVICE ?= cuda
KIT ?= runs/gpu_kit
BIN := .venv/bin
UV = $(shell command -v uv || echo $(BIN)/python -m uv)
READY := .venv/ready-$(shell cat requirements.lock pyproject.toml | cksum | cut -d' ' -f1)
export PATH := $(CURDIR)/$(BIN):$(PATH)

reproduce: $(READY)  # run every notebook, build the book of that run
	$(BIN)/python -m distill_lib reproduce --profile $(PROFILE) $(if $(ONLY),--only $(ONLY)) $(if $(JOBS),--jobs $(JOBS)) $(PARAMS)

book: $(READY)  # the book of the recorded results
	$(BIN)/python -m distill_lib book

test: $(READY)  # all tests, files side by side on up to four cores
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

lint: $(READY)  # style: ruff, with the rules of pyproject.toml
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

benchmark: $(READY)  # speed and memory against plain references: ARGS="dm mtt --repeats 7", ARGS=--list
	$(BIN)/python benchmarks $(ARGS)

gpu:  # what a machine with a GPU is asked in MINUTES, into OUT; DEVICE=cpu tries it at tiny sizes; no network, no .venv
	$(PYTHON) benchmarks/gpu_kit.py run $(OUT) --minutes $(MINUTES) --device $(DEVICE) --kit $(KIT)

gpu-kit:  # the packages that such a machine lacks, into KIT
	$(PYTHON) benchmarks/gpu_kit.py collect $(KIT)

clean:  # remove the environment and the book; results and runs stay
	rm -rf _build .venv

$(READY):  # uv, not pip: the same files whatever pip is configured to do, every hash checked
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; choose one with PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(UV) --version >/dev/null 2>&1 || $(BIN)/python -m pip --version >/dev/null 2>&1 || \
		{ echo ".venv is incomplete: it is made again"; $(PYTHON) -m venv --clear .venv; }
	$(UV) --version 2>/dev/null || $(BIN)/python -m pip install --quiet uv
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@rm -f .venv/ready-* && touch $@

.PHONY: reproduce book test lint benchmark gpu gpu-kit clean
