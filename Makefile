# `make demo` and `make test` each set up .venv when it is missing or older than pyproject.toml.
PYTHON ?= python3
# Taken first and exactly: without a version pip would fetch gigabytes of CUDA packages. See the README for a GPU.
TORCH ?= torch==2.13.0

BIN := .venv/bin

.PHONY: install demo test test-ray test-rest lint chaos format clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "crackvae needs Python 3.11 or newer")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/crackvae demo

test: lint
	@$(MAKE) --no-print-directory --jobs=2 --output-sync test-ray test-rest

# Tests that need Ray mostly wait for its processes, so the others run beside them.
test-ray: install
	$(BIN)/python -m pytest -m ray

test-rest: install
	$(BIN)/python -m pytest -m "not ray"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml crackvae jobs cluster

# Hundreds of rounds of faults, some of them for a minute; writes benchmarks/results/chaos-DATE.json and its table.
chaos: install
	CRACKVAE_CHAOS=long $(BIN)/python -m pytest tests/chaos
	$(BIN)/python tests/chaos/rounds.py

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
