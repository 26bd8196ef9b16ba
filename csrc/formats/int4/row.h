// One channel of the dense form as floats, as int8's (formats/int8/row.h), group by group.
#pragma once

#include <string.h>

#include "base/half.h"
#include "base/math.h"
#include "formats/int8/layout.h"
#include "formats/store_row.h"
#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern::int4 {
namespace {

// 8 weights of a channel, from its line, as 0..15. In a line of 4 k the channel has 4 bytes, of which the low nibbles come first;
// in one of 8 it has 8, of which it has either half.
template <int64_t kDepth>
EK_INLINE void put_eight(const uint8_t* line, int64_t column, int8_t* to) {
  constexpr uint64_t kLow = 0x0f0f0f0f0f0f0f0fu;
  uint64_t nibbles;
  if constexpr (kDepth == 4) {
    uint32_t bytes;
    memcpy(&bytes, line + column * 4, 4);
    nibbles = bytes | uint64_t{bytes} >> 4 << 32;
  } else {
    memcpy(&nibbles, line + column % 8 * 8, 8);
    nibbles >>= column / 8 * 4;
  }
  nibbles &= kLow;
  memcpy(to, &nibbles, 8);
}

template <class Isa, ek_dtype D>
void read_row_as(const RhsPanels& rhs, int64_t n, int64_t k, void* y, int64_t at) {
  constexpr int64_t kMostInGroup = 128;
  static_assert(kMostInGroup % Isa::kLanes == 0);
  alignas(64) int8_t part[kMostInGroup] = {};
  constexpr int64_t kColumns = int8::kPanelColumns, kUnit = int8::kDepthUnit, kUnitBytes = kColumns * kUnit / 2;
  const int64_t panel = n / kColumns, column = n % kColumns, first = panel * rhs.groups * kColumns + column;
  const uint8_t* lines = rhs.lines + panel * (rhs.padded_k / kUnit * kUnitBytes);
  for (int64_t group = 0, k0 = 0; k0 < k; ++group, k0 += rhs.group_size) {
    int64_t count = min_of(rhs.group_size, k - k0), number = first + group * kColumns;
    int zero = rhs.zero == nullptr ? 8 : rhs.zero[number];
    for (int64_t i = 0; i < count; i += kUnit)
      put_eight<Isa::kOrder.line_depth>(lines + (k0 + i) / kUnit * kUnitBytes, column, part + i);
    const typename Isa::F32 scale = Isa::set(f16_to_f32(rhs.scale[number])), zeros = Isa::set(static_cast<float>(zero));
    store_row<Isa, D>(y, at + k0, count, [&](int64_t i) EK_LAMBDA_INLINE {
      return Isa::mul(Isa::sub(Isa::to_f32(Isa::load_s8(part + i)), zeros), scale);
    });
  }
}

template <class Isa>
void read_row(const RhsPanels& rhs, int64_t n, int64_t k, void* y, ek_dtype dtype, int64_t at) {
  if (dtype == EK_F32) return read_row_as<Isa, EK_F32>(rhs, n, k, y, at);
  if (dtype == EK_F16) return read_row_as<Isa, EK_F16>(rhs, n, k, y, at);
  return read_row_as<Isa, EK_BF16>(rhs, n, k, y, at);
}

}  // namespace
}  // namespace edgekern::int4
