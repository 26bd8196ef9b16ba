// The embedding functions of _core, of int8 and int4.
#pragma once

#include <pybind11/pybind11.h>

namespace edgekern {

void bind_embedding(pybind11::module_& core);

}  // namespace edgekern
