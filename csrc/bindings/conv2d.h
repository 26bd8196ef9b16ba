// Adds the functions of convolutions to the module.
#pragma once

#include <pybind11/pybind11.h>

namespace edgekern {

void bind_conv2d(pybind11::module_& core);
void bind_int4_conv2d(pybind11::module_& core);

}  // namespace edgekern
