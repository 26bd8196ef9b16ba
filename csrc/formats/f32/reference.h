// The oracle: the f32 layer as its definition in edgekern.h reads, in the plainest code. Linked into tests only.
#pragma once

#include <stdint.h>

#include <vector>

#include "edgekern/edgekern.h"

namespace edgekern::f32::reference {

struct Linear {
  std::vector<double> y;      // [m][n]
  std::vector<double> error;  // [m][n]: how far a float sum may be off before the activation
};

// Zeros of w are not multiplied.
Linear linear(int64_t m, int64_t n, int64_t k, const float* x, const float* w, const float* bias, ek_activation activation);

}  // namespace edgekern::f32::reference
