"""The C library as programs get it: installed into a prefix, with examples/cpp built against it.

`make test-example` and `make cross-example` say which build to install and, for ARM, how to run programs.
"""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
from commands import EXAMPLE, run, succeed


def pytest_addoption(parser):
    parser.addoption("--library-build", type=Path, required=True, help="build folder of the library to install")
    parser.addoption("--toolchain", type=Path, help="CMake toolchain file that the library was built with")
    parser.addoption("--qemu-cpu", action="append", help="run programs on this CPU model; repeatable")
    parser.addoption("--qemu-root", type=Path, help="folder with the programs' system libraries")


def pytest_generate_tests(metafunc):
    if "cpu" in metafunc.fixturenames:
        cpus = metafunc.config.getoption("qemu_cpu") or [None]
        once = metafunc.definition.get_closest_marker("any_cpu")
        metafunc.parametrize("cpu", cpus[:1] if once else cpus, scope="session")


def pytest_configure(config):
    config.addinivalue_line("markers", "any_cpu: what it tests does not depend on the CPU, so one of them is enough")


@pytest.fixture(scope="session")
def prefix(pytestconfig, tmp_path_factory):
    """Where the library is installed."""
    folder = tmp_path_factory.mktemp("prefix")
    succeed("cmake", "--install", pytestconfig.getoption("library_build"), "--prefix", folder)
    return folder


@pytest.fixture(scope="session")
def configure(pytestconfig, prefix):
    """Runs CMake on a project that is to find the installed library."""
    toolchain = pytestconfig.getoption("toolchain")
    options = [f"-DCMAKE_PREFIX_PATH={prefix}", "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON"]
    if toolchain:
        options.append(f"-DCMAKE_TOOLCHAIN_FILE={toolchain.resolve()}")
    return lambda source, build, *more: run("cmake", "-G", "Ninja", "-S", source, "-B", build, *options, *more)


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """One folder for both kinds of library: the second costs a link only."""
    return tmp_path_factory.mktemp("example")


@pytest.fixture(scope="session", params=["static", "shared"])
def executable(request, configure, build):
    """examples/cpp/run_stack."""
    done = configure(EXAMPLE, build, f"-DBUILD_SHARED_LIBS={'ON' if request.param == 'shared' else 'OFF'}")
    assert done.returncode == 0, done.stdout + done.stderr
    succeed("cmake", "--build", build)
    libraries = succeed("readelf", "--dynamic", "--wide", build / "run_stack")
    assert ("libedgekern.so" in libraries) == (request.param == "shared")
    return shutil.copy(build / "run_stack", build / f"run_stack-{request.param}")


@pytest.fixture(scope="session")
def program(executable, cpu, pytestconfig):
    """run_stack, on the CPU at hand or on an emulated one."""
    if cpu is None:
        return partial(run, executable)
    root = pytestconfig.getoption("qemu_root").resolve()
    return partial(run, "qemu-aarch64", "-cpu", cpu, "-L", root, executable)


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """What export.py wrote: model, input.safetensors, expected.safetensors."""
    folder = tmp_path_factory.mktemp("exported")
    succeed(sys.executable, EXAMPLE / "export.py", folder)
    return folder
