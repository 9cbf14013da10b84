# tirflow: `make demo` shows the whole pipeline on this machine, `make test` runs the tests. Python 3.11, pip and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
LOCK := images/locks/embedded.txt
export TIRFLOW_HOME ?= $(CURDIR)/.tirflow

.PHONY: demo test test-browser lint types check up down env deploy run venv lock clean

demo: venv ## train/tiny from an empty machine to its scores; run again, it reuses what exists
	@$(BIN)/python -m flows.local demo

test: venv ## everything that needs neither Docker nor vLLM nor a browser
	$(BIN)/python -m pytest -q

test-browser: venv ## the report in headless Chromium (apt-get install chromium chromium-driver)
	$(BIN)/python -m pytest -q tests/browser

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

check: lint types test

up: venv ## a Prefect server and worker that stay, deployments included
	@$(BIN)/python -m flows.local up

down: venv
	@$(BIN)/python -m flows.local down

env: venv ## eval "$$(make -s env)" points the prefect command of this shell at the local server
	@$(BIN)/python -m flows.local env
	@echo 'export PATH="$(CURDIR)/$(BIN):$$PATH"'

deploy: venv ## after a change to prefect.yaml
	@$(BIN)/python -m flows.local deploy

run: venv ## make run DEPLOYMENT=train/tiny PARAMETERS='run=mine force=true'
	@$(BIN)/python -m flows.local run $(DEPLOYMENT) $(PARAMETERS)

venv: $(VENV)/.ready

# DeepSpeed is built here (no kernels) and its build needs torch, so it comes after the rest of the lock.
$(VENV)/.ready: $(LOCK) pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked packages into $(VENV) (minutes on the first time)"
	@grep -v '^deepspeed==' $(LOCK) > $(VENV)/first.txt
	@$(BIN)/python -m pip install --quiet --no-deps -r $(VENV)/first.txt
	@grep '^deepspeed==' $(LOCK) > $(VENV)/second.txt
	@DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -r $(VENV)/second.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip check
	@touch $@

lock: ## rewrite the lock from what is installed
	@mkdir -p $(dir $(LOCK))
	@$(BIN)/python -m pip freeze --all --exclude-editable | sed -E 's/\+cpu$$//' | grep -vE '^(pip|-e)|@ file' | sort -f > $(LOCK)

clean: ## stops the local server and forgets runs, artifacts and the environment
	@test ! -x $(BIN)/python || $(BIN)/python -m flows.local down
	rm -rf $(VENV) $(TIRFLOW_HOME)
