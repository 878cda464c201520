# Needs make and Python >= 3.11; everything else goes into .venv.

PYTHON ?= python3
BIN := .venv/bin
N ?= 200
MINUTES ?= 60

.PHONY: setup demo test check bench coverage-sim alert-sim crash exactness soak clean

setup: .venv/.ready
	@:

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Vedette needs Python >= 3.11: make PYTHON=python3.12 setup")'
	@echo 'Setting up .venv (once; takes a minute or two)'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/vedette demo

# Most tests wait for a process or a clock: three at once keep two cores busy.
test: setup
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m bench

coverage-sim: setup
	$(BIN)/python -m bench.coverage

alert-sim: setup
	$(BIN)/python -m bench.alert_days

exactness: setup
	$(BIN)/python -m bench.exactness
	$(BIN)/python -m bench.session_exactness

crash: setup
	$(BIN)/python -m bench.crash --kills $(N)

soak: setup
	$(BIN)/python -m bench.soak --minutes $(MINUTES)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist demo-data
