# Every target sets up .venv first when it is missing or older than pyproject.toml or constraints.txt.
PYTHON ?= python3
# torch is installed first, so that TORCH can name its build: that of PyPI brings CUDA. See the README for the CPU alone.
TORCH ?= torch==2.13.0
# Only `make lock` needs it.
UV ?= uv==0.13.8

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
FAST := not ray and not browser and not server and not package and not slow

# Where it is set, every process of the tests would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo test test-fast test-ray test-rest coverage lint chaos format lock clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "crackvae needs Python 3.11 or newer")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/crackvae demo

# Tests on Ray mostly wait for its processes, so lint and the other tests run at the same time. They yield to Ray's workers,
# which lower their own priority and take longest.
test: install
	@$(MAKE) --no-print-directory --jobs=3 --output-sync YIELD='nice -n 10' test-ray lint test-rest

# What a change is tried with while it is written: no Ray, no browser, no server, nothing slow.
test-fast: install
	$(PYTEST) -m "$(FAST)" --numprocesses=2

test-ray: install
	$(PYTEST) -m ray

test-rest: install
	$(YIELD) $(PYTEST) -m "not ray"

# Line and branch coverage of the fast tests; writes benchmarks/results/coverage-DATE.json.
coverage: install
	$(PYTEST) -m "$(FAST)" --numprocesses=2 --cov=crackvae --cov-branch --cov-report=term --cov-report=json:.coverage.json
	$(BIN)/python benchmarks/coverage.py .coverage.json

lint: install
	$(YIELD) $(BIN)/ruff check .
	$(YIELD) $(BIN)/ruff format --check .
	$(YIELD) $(BIN)/mypy
	$(YIELD) $(BIN)/bandit --quiet --recursive --configfile pyproject.toml crackvae jobs cluster

# Hundreds of rounds of injected faults, about an hour; writes benchmarks/results/chaos-DATE.json and its table in the docs.
chaos: install
	CRACKVAE_CHAOS=long $(PYTEST) tests/chaos
	$(BIN)/python tests/chaos/rounds.py

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Resolve constraints.txt again. Versions that still fit are kept: add UPGRADE=--upgrade for the newest of all,
# or UPGRADE='--upgrade-package ray' for the newest of one.
lock: install
	$(BIN)/pip install --quiet --disable-pip-version-check $(UV)
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra fuzz --python-version 3.11 \
		--python-platform x86_64-manylinux_2_28 --no-annotate --no-header --quiet $(UPGRADE) --output-file constraints.txt
	sed -i '1i # Exact versions of everything that crackvae and its tests install, resolved on Python 3.11; written by `make lock`.' \
		constraints.txt

clean:
	rm -rf .venv build *.egg-info .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis
