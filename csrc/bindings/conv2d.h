// Adds the functions of convolutions to the module.
#pragma once

#include "arrays.h"
#include "edgekern/edgekern.h"

namespace edgekern {

void bind_conv2d(py::module_& core);
void bind_int4_conv2d(py::module_& core);
void bind_f32_conv2d(py::module_& core);

// What weights [out][kernel_h * kernel_w * in / groups] are those of.
inline ek_conv2d_shape conv2d_shape(int64_t out_channels, int64_t in_channels, int64_t groups, int64_t kernel_h,
                                    int64_t kernel_w) {
  const ek_conv2d_shape shape{out_channels, in_channels, groups, kernel_h, kernel_w};
  int64_t height = 0, width = 0;
  const ek_window window{1, 1, 1, 1, kernel_h, kernel_h, kernel_w, kernel_w};
  if (ek_conv2d_output(&shape, &window, 0, 0, &height, &width) == EK_OK) return shape;
  throw py::value_error(
      text("a convolution of ", in_channels, " channels in, ", out_channels, " out, ", groups, " groups, ", kernel_h, " x ",
           kernel_w, " cannot be packed: at least 1 each, groups that divide both, and at most 2^24 weights a channel"));
}

}  // namespace edgekern
