// The f32 and f16 functions of _core, and what those of convolutions share with them.
#pragma once

#include "arrays.h"

namespace edgekern {

void bind_floats(py::module_& core);

// Of a block of kept weights.
inline void expect_channels(int64_t channels) {
  if (channels == 1 || channels == 2 || channels == 4 || channels == 8) return;
  throw py::value_error(text("channels must be 1, 2, 4 or 8, got ", channels));
}

}  // namespace edgekern
