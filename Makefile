# Everything that a fresh machine needs, it gets here: each target creates the environment first.

PYTHON ?= python3
BIN := .venv/bin
DEMO := .venv/demo
INSTALLED := .venv/installed

.PHONY: demo test packages simulate chaos check scan format bench clean

# The demo needs PyTorch and scikit-learn; everything else needs the development tools beside them.
$(DEMO): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Estafeta needs Python 3.11 or newer; set PYTHON=…")'
	@$(PYTHON) scripts/install.py demo
	@touch $@

$(INSTALLED): $(DEMO)
	@$(PYTHON) scripts/install.py dev
	@touch $@

demo: $(DEMO)  ## train handwritten digits with 4 workers, under Lambda's rules, on this machine
	@$(BIN)/python scripts/demo.py

test: $(INSTALLED)  ## the whole test suite
	$(BIN)/pytest --numprocesses 2 --dist loadgroup

packages: $(INSTALLED)  ## the library as deploy makes it: PyTorch is fetched, for two processors
	$(BIN)/pytest tests/aws/test_code_zip.py -m package -s

chaos: $(INSTALLED)  ## whole runs under injected faults and kill -9, all seeds and moments
	$(BIN)/pytest tests/e2e/test_chaos.py --thorough

simulate: $(INSTALLED)  ## 20,000 simulated runs; SEED=1234 tells one of them, PROFILE= says in what kind of world
	cd tests && ../$(BIN)/python -m simulation $(SEED) $(if $(PROFILE),--profile $(PROFILE))

check: $(INSTALLED)  ## lint, format, types, layering, template
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/cfn-lint src/estafeta/aws/stack.yaml src/estafeta/aws/bucket.yaml

scan: $(INSTALLED)  ## the templates by the rules of checkov, which has an environment of its own
	$(BIN)/uvx checkov@3.3.30 --framework cloudformation --quiet --compact --skip-download --file $(wildcard src/estafeta/aws/*.yaml)

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(INSTALLED)  ## short benchmarks
	$(BIN)/python benchmarks/bench_store.py --short
	$(BIN)/python benchmarks/bench_invoke.py --short
	$(BIN)/python benchmarks/bench_round.py --short
	$(BIN)/python benchmarks/bench_exchange.py --short
	$(BIN)/python benchmarks/bench_training.py --short --cases mlp-784-256-10,startup
	$(BIN)/python benchmarks/bench_handover.py --short
	$(BIN)/python benchmarks/bench_recovery.py --short
	$(BIN)/python benchmarks/bench_data.py --short
	$(BIN)/python benchmarks/bench_memory.py --short

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis runs
