// y, seen from a later row.
#pragma once

#include "base/dtype.h"
#include "isa/kernels.h"

namespace edgekern {

inline Output from_row(const Output& output, int64_t m) {
  int64_t bytes = output.integers ? 4 : bytes_of(output.dtype);
  Output rest = output;
  rest.y = static_cast<char*>(output.y) + m * output.ld_y * bytes;
  return rest;
}

}  // namespace edgekern
