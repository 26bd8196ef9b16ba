// The f32 and f16 functions of _core.
#pragma once

#include <pybind11/pybind11.h>

namespace edgekern {

void bind_floats(pybind11::module_& core);

}  // namespace edgekern
