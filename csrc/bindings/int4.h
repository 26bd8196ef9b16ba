// The int4 functions of edgekern._core.
#pragma once

#include <pybind11/pybind11.h>

namespace edgekern {

void bind_int4(pybind11::module_& core);

}  // namespace edgekern
