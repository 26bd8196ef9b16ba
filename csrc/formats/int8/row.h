// One channel of the dense form as floats: a row of an embedding table, which may be the output head's matrix too.
//
// A channel is kDepth bytes in each line of its panel. They are put side by side in L1, a part at a time, then made floats.
// That touches every line of the panel, 16 times the bytes that count, but one after the other.
#pragma once

#include <string.h>

#include "base/math.h"
#include "formats/int8/layout.h"
#include "formats/store_row.h"
#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern::int8 {
namespace {

template <class Isa, ek_dtype D>
void read_row_as(const RhsPanels& rhs, int64_t n, int64_t k, void* y, int64_t at) {
  constexpr int64_t kDepth = Isa::kOrder.line_depth, kPart = 512;
  static_assert(kPart % kDepth == 0 && kPart % Isa::kLanes == 0);
  alignas(64) int8_t part[kPart] = {};
  const int8_t* from = rhs.panels + n / kPanelColumns * rhs.padded_k * kPanelColumns + n % kPanelColumns * kDepth;
  const typename Isa::F32 scale = Isa::set(rhs.scale[n]);
  for (int64_t k0 = 0; k0 < k; k0 += kPart) {
    int64_t count = min_of(kPart, k - k0);
    for (int64_t i = 0; i < count; i += kDepth) memcpy(part + i, from + (k0 + i) * kPanelColumns, kDepth);
    store_row<Isa, D>(y, at + k0, count,
                      [&](int64_t i) EK_LAMBDA_INLINE { return Isa::mul(Isa::to_f32(Isa::load_s8(part + i)), scale); });
  }
}

template <class Isa>
void read_row(const RhsPanels& rhs, int64_t n, int64_t k, void* y, ek_dtype dtype, int64_t at) {
  if (dtype == EK_F32) return read_row_as<Isa, EK_F32>(rhs, n, k, y, at);
  if (dtype == EK_F16) return read_row_as<Isa, EK_F16>(rhs, n, k, y, at);
  return read_row_as<Isa, EK_BF16>(rhs, n, k, y, at);
}

}  // namespace
}  // namespace edgekern::int8
