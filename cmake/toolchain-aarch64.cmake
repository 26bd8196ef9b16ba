# Builds for 64-bit ARM Linux with clang and lld against two Debian trees that `make cross-trees` unpacks:
#   sysroot   what to link against. It is an old release, so that the result starts on systems with an old glibc.
#   root      CPython for ARM with its headers, for the Python module and to run tests with. The C++ library needs none.
# EDGEKERN_CROSS_SYSROOT and EDGEKERN_CROSS_ROOT, in the environment, name others.
foreach(tree sysroot root)
  string(TOUPPER "EDGEKERN_CROSS_${tree}" variable)
  set(${tree} "$ENV{${variable}}")
  if(NOT ${tree})
    get_filename_component(${tree} "${CMAKE_CURRENT_LIST_DIR}/../build/cross/${tree}" ABSOLUTE)
  endif()
endforeach()
if(NOT EXISTS "${sysroot}/usr/include/aarch64-linux-gnu")
  message(FATAL_ERROR "No arm64 Debian tree in ${sysroot}. Run `make cross-trees`, or name a tree with libc6-dev and "
                      "libstdc++-10-dev in EDGEKERN_CROSS_SYSROOT.")
endif()
find_program(EDGEKERN_CROSS_CXX clang++-16)
find_program(EDGEKERN_CROSS_LINKER ld.lld-16)
if(NOT EDGEKERN_CROSS_CXX OR NOT EDGEKERN_CROSS_LINKER)
  message(FATAL_ERROR "Cross-building needs clang++-16 and ld.lld-16 (Debian, Ubuntu: apt-get install clang-16 lld-16).")
endif()

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_SYSROOT "${sysroot}")
set(CMAKE_CXX_COMPILER "${EDGEKERN_CROSS_CXX}")
set(CMAKE_CXX_COMPILER_TARGET aarch64-linux-gnu)
set(CMAKE_CXX_SCAN_FOR_MODULES OFF) # there are none, and the scan needs one tool more
add_link_options("--ld-path=${EDGEKERN_CROSS_LINKER}")
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH) # pybind11 comes from the Python that runs the build

# The module is for the tree's Python, not for the one that runs the build.
file(GLOB python_headers "${root}/usr/include/python3.*/Python.h")
if(python_headers)
  get_filename_component(python_headers "${python_headers}" DIRECTORY)
  set(Python_INCLUDE_DIR "${python_headers}" CACHE PATH "")
  set(PYBIND11_USE_CROSSCOMPILING ON)
  # Debian's pyconfig.h includes <aarch64-linux-gnu/python3.11/pyconfig.h>; the rest there must not win over the sysroot.
  set(CMAKE_CXX_FLAGS_INIT "-idirafter ${root}/usr/include")
endif()
