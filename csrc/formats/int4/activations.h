// Activations for int4: int8's rows as s8, and of each row the sum over every group, which zero points of weights are
// multiplied by.
#pragma once

#include "formats/int8/quantize.h"

namespace edgekern::int4 {
namespace {

// Of a row's next `depth` values of k, a multiple of kDepthUnit. Beyond them it holds zeros, for as long as a step of quantising
// is: whole steps are summed where a row is by itself.
template <class Isa>
int32_t sum_of(const uint8_t* row, int64_t depth) {
  constexpr int64_t kRun = Isa::kGroupRows == 1 ? 32 : Isa::kStepDepth;
  static_assert(Isa::kGroupRows > 1 || Isa::kParts * Isa::kLanes % kRun == 0);
  int32_t sum = 0;
  for (int64_t k = 0; k < depth; k += kRun, row += Isa::kGroupRows * kRun)
    for (int64_t i = 0; i < kRun; ++i) sum += static_cast<int8_t>(row[i]);
  return sum;
}

// The sums of rows that stand in `out` already, for every group.
template <class Isa>
void sum_groups(int64_t k, int64_t group_size, int64_t m0, int64_t m1, const int8::LhsRows& out) {
  static_assert(Isa::kLhsBytes == 1 && Isa::kZeroOffset == 128);
  constexpr int64_t kRows = Isa::kGroupRows;
  int64_t padded_k = round_up(k, int8::kDepthUnit);
  for (int64_t m = m0; m < m1; ++m) {
    const uint8_t* row = out.data + m / kRows * kRows * out.stride + m % kRows * Isa::kStepDepth;
    int32_t* sum = out.row_sum + m;
    for (int64_t g = 0; g < padded_k; g += group_size, sum += out.rows)
      *sum = sum_of<Isa>(row + g * kRows, min_of(group_size, padded_k - g));
  }
}

template <class Isa>
void quantize(const void* x, ek_dtype dtype, int64_t ld_x, int64_t k, int64_t group_size, int64_t m0, int64_t m1,
              const int8::LhsRows& out) {
  int8::quantize<Isa>(x, dtype, ld_x, k, nullptr, m0, m1, out);
  sum_groups<Isa>(k, group_size, m0, m1, out);
}

template <class Isa>
void load_u8(const uint8_t* q, int64_t ld_q, const int32_t* zero_point, int64_t k, int64_t group_size, int64_t m0, int64_t m1,
             const int8::LhsRows& out) {
  int8::load_u8<Isa>(q, ld_q, zero_point, k, m0, m1, out);
  sum_groups<Isa>(k, group_size, m0, m1, out);
}

}  // namespace
}  // namespace edgekern::int4
