// Whether numbers are numbers.
#pragma once

#include <math.h>
#include <stdint.h>

namespace edgekern {

inline bool all_finite(const float* values, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    if (!isfinite(values[i])) return false;
  return true;
}

}  // namespace edgekern
