// The sizes of a convolution.
#pragma once

#include "base/math.h"
#include "edgekern/edgekern.h"

namespace edgekern::conv2d {

struct Geometry {
  ek_conv2d_shape shape;
  ek_window window;
  int64_t height, width;          // of x
  int64_t out_height, out_width;  // of y

  int64_t out_pixels() const { return out_height * out_width; }
  int64_t group_in() const { return shape.in_channels / shape.groups; }
  int64_t k() const { return shape.kernel_h * shape.kernel_w * group_in(); }
  // Of x with zeros around it, what windows meet: the rest of x is not looked at but for its range.
  int64_t met_height() const { return (out_height - 1) * window.stride_h + (shape.kernel_h - 1) * window.dilation_h + 1; }
  int64_t met_width() const { return (out_width - 1) * window.stride_w + (shape.kernel_w - 1) * window.dilation_w + 1; }
  int64_t row_bytes() const { return met_width() * shape.in_channels; }
  int64_t image_bytes() const { return met_height() * row_bytes(); }
  // A line of a window is pixels that lie side by side, with all their channels: one run of memory.
  bool lines_are_runs() const { return shape.groups == 1 && (window.dilation_w == 1 || shape.kernel_w == 1); }
  // A window is one pixel, and windows lie side by side: rows of activations are the image itself.
  bool windows_are_pixels() const {
    return shape.kernel_h == 1 && shape.kernel_w == 1 && window.stride_h == 1 && window.stride_w == 1 && shape.groups == 1;
  }
};

// The sizes of a call, whose images take less than 2^62 bytes, as x, as y, and with zeros around them.
ek_status geometry_of(const ek_conv2d_shape& shape, const ek_window* window, int64_t images, int64_t height, int64_t width,
                      Geometry* out);

inline bool valid_order(ek_image_order order) { return order == EK_NCHW || order == EK_NHWC; }

}  // namespace edgekern::conv2d
