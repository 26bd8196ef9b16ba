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
  // A window is one pixel, and windows lie side by side: rows of activations are the image itself.
  bool windows_are_pixels() const {
    return shape.kernel_h == 1 && shape.kernel_w == 1 && window.stride_h == 1 && window.stride_w == 1 && shape.groups == 1;
  }
};

// Pixels of y in an order in which those come one after the other whose windows reach over the same edges of the image: first
// `top` rows, then as many as the last ones, then what is left of the first and last columns, and then what is within.
struct Frame {
  int64_t top, bottom, left, right;

  struct Part {
    int64_t y, x, height, width;
  };
  int64_t parts() const { return top + bottom + left + right + 1; }
  Part part(const Geometry& g, int64_t i) const {
    const int64_t rows = g.out_height - top - bottom;
    if (i < top) return {i, 0, 1, g.out_width};
    if ((i -= top) < bottom) return {g.out_height - bottom + i, 0, 1, g.out_width};
    if ((i -= bottom) < left) return {top, i, rows, 1};
    if ((i -= left) < right) return {top, g.out_width - right + i, rows, 1};
    return {top, left, rows, g.out_width - left - right};
  }
};

// Of `count` positions of windows along one side, how many begin before the image, and how many others end behind it.
struct Edges {
  int64_t before, behind;
};
inline Edges edges_of(int64_t count, int64_t stride, int64_t zeros, int64_t reach, int64_t size) {
  const int64_t before = min_of(count, ceil_div(zeros, stride));
  const int64_t first_behind = max_of(before, ceil_div(max_of(0, size + zeros - reach), stride));
  return {before, count - min_of(count, first_behind)};
}

// Of a window's `kernel` values along one side, from `start` on, those within the image.
struct Within {
  int64_t begin, end;
};
inline Within within(int64_t start, int64_t kernel, int64_t dilation, int64_t size) {
  const int64_t begin = min_of(kernel, ceil_div(max_of(0, -start), dilation));
  return {begin, max_of(begin, min_of(kernel, ceil_div(max_of(0, size - start), dilation)))};
}

}  // namespace edgekern::conv2d
