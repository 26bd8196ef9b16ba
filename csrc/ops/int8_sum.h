// Sums of images, pixel by pixel: by themselves, or of what a convolution has just made.
#pragma once

#include <stdint.h>

#include "base/dtype.h"
#include "edgekern/edgekern.h"
#include "isa/kernels.h"

namespace edgekern::int8 {

// What is added to an image, and where the result goes. All of one shape, and u8 by their ranges, or of one float dtype.
struct Sum {
  ek_images other, y;
  ek_activation activation;
};

inline Addend addend_of(const ek_images& images, int64_t at, int64_t stride) {
  return {static_cast<const char*>(images.data) + at * bytes_of(images.dtype), stride, images.dtype, images.range.scale,
          images.range.zero_point};
}

// The kernel's call for rows of `x` that are so many elements apart and those of the other two from element `at` on.
inline SumArgs sum_args(const Addend& x, ek_dtype floats, const Sum& sum, int64_t at, int64_t stride) {
  char* y = static_cast<char*>(sum.y.data) + at * bytes_of(sum.y.dtype);
  return {x, addend_of(sum.other, at, stride), y, stride, floats, sum.y.dtype, sum.y.range, sum.activation};
}

}  // namespace edgekern::int8
