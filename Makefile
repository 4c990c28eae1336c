# make demo   a training run logged to an offline ClearML session and TensorBoard event files
# make test   C++ and Python tests
# make lint   formatters, linters, type checker
# make bench  the benchmarks, with JSON, plot and tables written; BENCH_ARGS=--quick: a smoke run
# make soak-events  1 GB of scalars, histograms and images in one event file, each check sum verified
# make clean  removes everything that was built or installed here
#
# Each sets up what it needs in .venv. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The CPU build of torch: a bare "torch" pulls gigabytes of CUDA.
TORCH ?= torch==2.13.0

NATIVE := pyproject.toml CMakeLists.txt $(wildcard cpp/tracelet/* cpp/tracelet/*/* cpp/bindings/*)

.PHONY: demo test test-cpp test-python test-pythons soak-events lint format bench clean

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

test: test-cpp test-python

test-cpp: $(VENV)/.tools
	PATH="$(CURDIR)/$(BIN):$$PATH" .ci/cpp-tests

test-python: $(VENV)/.users
	.ci/browser
	$(BIN)/python -m pytest

# The core on every Python from 3.9 to 3.13 found here, and ClearML's oldest supported version.
test-pythons: $(VENV)/.tools
	.ci/test-pythons

soak-events: $(VENV)/.installed
	TRACELET_SOAK_BYTES=1e9 $(BIN)/python -m pytest -s tests/integration/test_event_file_soak.py

# mypy reads the stub that the build generated.
lint: $(VENV)/.installed
	cp $(VENV)/lib/python*/site-packages/tracelet/_core.pyi python/tracelet/
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(wildcard cpp/*/*.h cpp/*/*.cpp cpp/*/*/*.h cpp/*/*/*.cpp)

format: $(VENV)/.tools
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(wildcard cpp/*/*.h cpp/*/*.cpp cpp/*/*/*.h cpp/*/*/*.cpp)

BENCH_ARGS ?= --write
bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

clean:
	rm -rf $(VENV) .venvs build dist .demo .mypy_cache .pytest_cache .ruff_cache .hypothesis

# What builds the package; the versions of the build's own requirements are in pyproject.toml.
$(VENV)/.tools: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "cmake>=3.24" ninja numpy "scikit-build-core>=0.10" \
	    "nanobind>=3,<4; python_version>='3.10'" "nanobind>=2.4,<3; python_version<'3.10'" \
	    clang-format==23.1.5 ruff==0.17.6
	touch $@

# torch first: with it installed, nothing else pulls another build of it.
$(VENV)/.installed: $(VENV)/.tools $(NATIVE)
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --no-build-isolation -C cmake.define.TRACELET_STRICT=ON -e ".[dev]"
	touch $@

# Named together with torch, so that none of them changes its version.
$(VENV)/.users: $(VENV)/.installed
	$(BIN)/pip install --quiet "$(TORCH)" --group users
	touch $@
