// The f32 functions of _core.
#pragma once

#include <pybind11/pybind11.h>

namespace edgekern {

void bind_f32(pybind11::module_& core);

}  // namespace edgekern
