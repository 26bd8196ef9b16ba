// The int8 functions of _core.
#pragma once

#include <pybind11/pybind11.h>

namespace edgekern {

void bind_int8(pybind11::module_& core);

}  // namespace edgekern
