// The oracle: the f16 layer as its definition in edgekern.h reads, in the plainest code. Linked into tests only.
#pragma once

#include <stdint.h>

#include <vector>

#include "formats/f32/reference.h"

namespace edgekern::f16::reference {

// Weights [n][k] as packing rounds them.
std::vector<float> round_weights(int64_t n, int64_t k, const float* w);

// Of rounded weights; halves: what multiplies them is f16.
f32::reference::Linear linear(int64_t m, int64_t n, int64_t k, const float* x, const float* w, const float* bias,
                              ek_activation activation, bool halves);

}  // namespace edgekern::f16::reference
