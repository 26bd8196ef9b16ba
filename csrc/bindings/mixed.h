// The functions of _core for int8 and int4 weights by activations that stay floats.
#pragma once

#include <pybind11/pybind11.h>

namespace edgekern {

void bind_mixed(pybind11::module_& core);

}  // namespace edgekern
