// The edges of an image that windows reach over, and the pixels of y whose windows do.
#pragma once

#include "ops/conv2d.h"

namespace edgekern::conv2d {

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
