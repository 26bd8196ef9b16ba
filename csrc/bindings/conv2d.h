// Adds the functions of int8 convolutions to the module.
#pragma once

#include <pybind11/pybind11.h>

namespace edgekern {

void bind_conv2d(pybind11::module_& core);

}  // namespace edgekern
