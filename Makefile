# Every target makes the environment it needs; `make demo` and `make test` are all a newcomer has to know.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TEST_JOBS ?= 2
READY := $(VENV)/.ready

.PHONY: demo test test-sanitized test-arm lint notebooks pages screenshots pictures bench clean

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
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder

test-sanitized:  ## native operations under AddressSanitizer and UndefinedBehaviorSanitizer
	cmake -S kernels/cpu -B build/sanitized -DBITEMBED_SANITIZE=ON
	cmake --build build/sanitized -j2 --target adversarial
	build/sanitized/adversarial

test-arm:  ## native operations for ARM, under qemu (Debian: qemu-user, g++-aarch64-linux-gnu)
	cmake -S kernels/cpu -B build/arm -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
		-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
	cmake --build build/arm -j2 --target adversarial
	qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu build/arm/adversarial

notebooks: $(READY)  ## open the notebooks in a browser
	$(BIN)/marimo edit notebooks/

# These three take MODEL=runs/x/distill, a trained model to show; else a small one is trained on the way.
SHOWN = $(if $(MODEL),--model $(MODEL))

pages: $(READY)  ## every notebook as a page with real results
	$(BIN)/python -m workbench.showcase.pages --out build/pages $(SHOWN)

screenshots: $(READY)  ## every app in a browser: checked, and pictured at the width of a desk and of a phone
	$(BIN)/python -m workbench.showcase.look --out build/screenshots $(SHOWN)

pictures: $(READY)  ## the README's pictures
	$(BIN)/python -m workbench.showcase.pictures --out docs/images $(SHOWN)

bench: $(READY)
	$(BIN)/bitembed bench

clean:
	rm -rf $(VENV) build dist *.egg-info
