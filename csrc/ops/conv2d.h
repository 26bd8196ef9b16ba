// The sizes of a convolution, and the rows of activations that its products take, one a pixel of y.
#pragma once

#include <string.h>

#include "base/math.h"
#include "edgekern/edgekern.h"

namespace edgekern::conv2d {

// Copies of runs are made in steps of this, and may read and write as far beyond their end.
inline constexpr int64_t kCopyStep = 16;

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
  // A window is one pixel, and windows lie side by side: rows of activations are the image itself.
  bool windows_are_pixels() const {
    return shape.kernel_h == 1 && shape.kernel_w == 1 && window.stride_h == 1 && window.stride_w == 1 && shape.groups == 1;
  }
};

// Few bytes more often than many, so not by a call, which compilers make of a loop that they see through.
inline void copy_run(uint8_t* to, const uint8_t* from, int64_t count) {
  int64_t i = 0;
  do {
    memcpy(to + i, from + i, kCopyStep);
    __asm__("" : "+r"(i));
  } while ((i += kCopyStep) < count);
}

// Rows of activations of pixels [p0, p1) of y, each k() bytes, from a u8 image with its zeros around it. Up to kCopyStep bytes
// are written beyond the last row.
inline void gather_rows(const Geometry& g, const uint8_t* image, int64_t group, int64_t p0, int64_t p1, uint8_t* rows,
                        int64_t stride) {
  const int64_t channels = g.group_in(), pixel = g.shape.in_channels;
  // Where a row of the filter meets pixels that lie side by side, with all their channels, they are one run.
  const bool whole = g.shape.groups == 1 && g.window.dilation_w == 1;
  const int64_t runs = whole ? 1 : g.shape.kernel_w, run = whole ? g.shape.kernel_w * channels : channels;
  const int64_t row_bytes = g.row_bytes(), next_row = g.window.dilation_h * row_bytes, next_run = g.window.dilation_w * pixel;
  int64_t y = p0 / g.out_width, x = p0 % g.out_width;
  for (int64_t p = p0; p < p1; ++p, rows += stride) {
    const uint8_t* from = image + y * g.window.stride_h * row_bytes + x * g.window.stride_w * pixel + group * channels;
    uint8_t* to = rows;
    for (int64_t r = 0; r < g.shape.kernel_h; ++r, from += next_row)
      for (int64_t s = 0; s < runs; ++s, to += run) copy_run(to, from + s * next_run, run);
    if (++x == g.out_width) x = 0, ++y;
  }
}

}  // namespace edgekern::conv2d
