"""What `cmake --install` gives: the files, the symbols, and how CMake and pkg-config find them."""

from __future__ import annotations

import re
import shutil

import pytest
from commands import ROOT, run, succeed

VERSION = (ROOT / "VERSION").read_text().strip()
MINOR = VERSION.rpartition(".")[0]


def test_only_the_public_header_is_installed(prefix):
    headers = [str(path.relative_to(prefix)) for path in (prefix / "include").rglob("*") if path.is_file()]
    assert headers == ["include/edgekern/edgekern.h"]


def test_the_shared_library_shows_the_c_abi_alone(prefix):
    table = succeed("readelf", "--dyn-syms", "--wide", prefix / "lib/libedgekern.so")
    rows = [line.split() for line in table.splitlines() if re.match(r"\s*\d+:", line)]
    defined = {row[7] for row in rows if len(row) > 7 and row[6] != "UND"}
    header = (prefix / "include/edgekern/edgekern.h").read_text()
    assert defined == set(re.findall(r"\b(ek_\w+)\(", re.sub(r"//.*", "", header)))


def test_the_shared_library_has_a_versioned_name(prefix):
    dynamic = succeed("readelf", "--dynamic", "--wide", prefix / "lib/libedgekern.so")
    assert f"Library soname: [libedgekern.so.{MINOR}]" in dynamic
    assert (prefix / "lib/libedgekern.so").resolve().name == f"libedgekern.so.{VERSION}"


@pytest.fixture
def find_package(configure, tmp_path):
    """CMake's output for a project that says find_package(edgekern ...), and the library that edgekern::edgekern is."""

    def find(arguments, *options):
        (tmp_path / "CMakeLists.txt").write_text(
            "cmake_minimum_required(VERSION 3.18...4.0)\nproject(finds LANGUAGES CXX)\n"
            f"find_package(edgekern {arguments})\n"
            "get_target_property(library edgekern::edgekern INTERFACE_LINK_LIBRARIES)\n"
            'message(STATUS "links ${library} of ${edgekern_VERSION}")\n'
        )
        done = configure(tmp_path, tmp_path / "build", *options)
        return " ".join((done.stdout + done.stderr).split())  # CMake wraps what it says

    return find


@pytest.mark.parametrize(
    ("arguments", "options", "library"),
    [
        ("REQUIRED", [], "static"),
        ("REQUIRED", ["-DBUILD_SHARED_LIBS=ON"], "shared"),
        ("REQUIRED COMPONENTS shared", [], "shared"),
        (f"{MINOR} REQUIRED COMPONENTS static", ["-DBUILD_SHARED_LIBS=ON"], "static"),
    ],
)
def test_find_package_links_the_library_asked_for(find_package, arguments, options, library):
    assert f"links edgekern::{library} of {VERSION}" in find_package(arguments, *options)


def test_find_package_refuses_an_unknown_component(find_package):
    text = find_package("REQUIRED COMPONENTS dynamic")
    assert "edgekern has no component 'dynamic'; expected static or shared" in text


def test_find_package_refuses_another_interface(find_package):
    text = find_package("99.0 REQUIRED")
    assert f"version: {VERSION}" in text
    assert "links edgekern" not in text


@pytest.mark.parametrize("kind", ["shared", "static"])
def test_pkg_config(pytestconfig, prefix, tmp_path, kind):
    if pytestconfig.getoption("toolchain"):
        pytest.skip("links with this machine's compiler")
    if not shutil.which("pkg-config"):
        pytest.skip("needs pkg-config")
    wish = ["--static"] if kind == "static" else []
    flags = succeed(
        "pkg-config", "--cflags", "--libs", *wish, "edgekern", PKG_CONFIG_PATH=f"{prefix}/lib/pkgconfig"
    ).split()
    if kind == "static":
        flags = ["-static", *flags]
    source = tmp_path / "version.c"
    source.write_text(
        "#include <edgekern/edgekern.h>\n#include <stdio.h>\nint main(void) { return puts(ek_version()) < 0; }\n"
    )
    succeed("cc", source, *flags, "-o", tmp_path / "version")
    assert succeed(tmp_path / "version", LD_LIBRARY_PATH=f"{prefix}/lib").strip() == VERSION


def test_a_device_needs_one_file(pytestconfig, tmp_path):
    build = pytestconfig.getoption("library_build")
    done = run("cmake", "--install", build, "--prefix", tmp_path, "--component", "runtime")
    assert done.returncode == 0, done.stderr
    files = sorted(path.name for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink())
    assert files == [f"libedgekern.so.{VERSION}"]
