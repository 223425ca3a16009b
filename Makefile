# Every target makes the environment it needs; `make demo` and `make test` are all a newcomer has to know.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint notebooks bench clean

NATIVE := $(wildcard kernels/cpu/CMakeLists.txt kernels/cpu/include/* kernels/cpu/src/*)

$(READY): pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,offline]'
	touch $(READY)

demo: $(READY)  ## ternary MiniLM from real MiniLM, evaluated at every storage precision
	$(BIN)/python -m workbench.demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/marimo check --strict notebooks/

test: $(READY) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

notebooks: $(READY)  ## open the notebooks in a browser
	$(BIN)/marimo edit notebooks/

bench: $(READY)
	$(BIN)/bitembed bench

clean:
	rm -rf $(VENV) build dist *.egg-info
