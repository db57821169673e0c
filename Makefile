# Two commands for a new user: make demo, make test. `make help` lists all.
.DEFAULT_GOAL := help
.PHONY: help compose compose-env compose-check demo demo-pool test test-slow kills faults simulate bench check airflow lint format docs clean setup

PYTHON_BIN := .venv/bin/python

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## Train a small real model through a DAG, download it, say how good it is (no server)
	@scripts/setup.sh run
	@$(PYTHON_BIN) -m airflow_jobdeploy.example_dags.demo

demo-pool: ## Let a sweep of eight compete for made-up GPUs of four "hosts" of this machine, and watch the line
	@scripts/setup.sh run
	@$(PYTHON_BIN) -m airflow_jobdeploy.example_dags.demo_pool

airflow: ## Start Airflow with the example DAGs; prints URL and login; Ctrl-C stops it
	@scripts/setup.sh run
	@exec $(PYTHON_BIN) scripts/standalone.py

compose: ## Start the scaled-out Airflow of docker-compose.yaml, with two hosts to run jobs on
	@scripts/compose.sh up

compose-env: ## Write .env, with a random value for each secret of docker-compose.yaml
	@scripts/compose.sh env

compose-check: ## Let docker compose say whether docker-compose.yaml is valid
	@scripts/compose.sh check

test: ## Lint, type check and run all tests
	@scripts/setup.sh dev
	@scripts/test-tools.sh
	@$(MAKE) --no-print-directory check
	$(PYTHON_BIN) -m pytest -n 2

test-slow: ## The tests that take minutes: two triggerers, one killed; 500 submits at once
	@scripts/setup.sh dev
	@scripts/test-tools.sh
	$(PYTHON_BIN) -m pytest -m slow

kills: ## Kill, clear, fail tasks of a running Airflow in all states; print how fast their jobs die
	@scripts/setup.sh dev
	@scripts/test-tools.sh
	@figures=$$(mktemp) && JOBDEPLOY_KILLS=$$figures $(PYTHON_BIN) -m pytest -q tests/airflow/test_matrix.py && cat $$figures && rm $$figures

check:
	$(PYTHON_BIN) -m ruff check .
	$(PYTHON_BIN) -m ruff format --check .
	$(PYTHON_BIN) -m mypy

faults: ## Break hosts and engines in all ways we know, print and note what becomes of their jobs (root; 7 minutes)
	@scripts/setup.sh dev
	@scripts/test-tools.sh
	$(PYTHON_BIN) -m benchmarks.faults

simulate: ## 10,000 jobs on 1,000 workers in virtual time: the line, placement, bad luck (2 minutes)
	@scripts/setup.sh dev
	$(PYTHON_BIN) -m benchmarks.simulate

bench: ## Measure what it costs beside the stock operators, print and note it (10 minutes; ROWS="submit log": some)
	@scripts/setup.sh dev
	@scripts/test-tools.sh
	$(PYTHON_BIN) -m benchmarks.run $(ROWS)

lint: ## Only ruff and mypy
	@scripts/setup.sh dev
	@$(MAKE) --no-print-directory check

format: ## Let ruff rewrite the sources
	@scripts/setup.sh dev
	$(PYTHON_BIN) -m ruff check --fix-only --quiet .
	$(PYTHON_BIN) -m ruff format .

docs: ## Write docs/reference/ from docstrings and schemas
	@scripts/setup.sh dev
	$(PYTHON_BIN) scripts/reference.py

setup: ## Make .venv with everything
	@scripts/setup.sh dev

clean: ## Remove what the other commands made
	rm -rf .venv .demo .airflow build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
