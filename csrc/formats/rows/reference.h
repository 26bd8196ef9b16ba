// The oracle: norms, gates and rotations as their definitions in edgekern.h read, in double. Linked into tests only.
#pragma once

#include <stdint.h>

#include <vector>

#include "edgekern/edgekern.h"

namespace edgekern::rows::reference {

// Of one row of n.
std::vector<double> rms_norm(int64_t n, const float* x, const float* weight, double eps);
std::vector<double> gate(int64_t n, const float* z, const float* x, ek_activation activation);
// In float: every bit is defined.
std::vector<float> rotate(int64_t n, const float* x, const float* cos, const float* sin);

}  // namespace edgekern::rows::reference
