// The oracle: the int8 layer as its definition in edgekern.h reads, in the plainest code. Linked into tests only.
#pragma once

#include <stdint.h>

#include <vector>

#include "edgekern/edgekern.h"

namespace edgekern::int8::reference {

struct Quantized {
  std::vector<uint8_t> q;  // [m][k]
  std::vector<float> scale;
  std::vector<int32_t> zero_point;
};

// lhs [m][ld_lhs] as f32 values. Each row by its own range, or all by one.
Quantized quantize_lhs(int64_t m, int64_t k, const float* lhs, int64_t ld_lhs);
Quantized quantize_lhs(int64_t m, int64_t k, const float* lhs, int64_t ld_lhs, ek_int8_range range);

// sum_k (q[m][k] - zero_point[m]) * w[n][k], in 64 bits.
std::vector<int64_t> matmul(int64_t m, int64_t n, int64_t k, const uint8_t* q, const int32_t* zero_point, const int8_t* w);

// The layer in double precision from the exact sums.
std::vector<double> linear(int64_t m, int64_t n, int64_t k, const Quantized& lhs, const int8_t* w, const float* scale,
                           const float* bias, ek_activation activation);

}  // namespace edgekern::int8::reference
