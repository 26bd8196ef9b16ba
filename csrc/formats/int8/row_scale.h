// The range of a row, or of an image, and the scale and zero point that quantise it: quantize.h has the formulas.
#pragma once

#include <stdint.h>
#include <string.h>

#include "edgekern/edgekern.h"
#include "formats/int8/layout.h"
#include "isa/tile.h"

namespace edgekern::int8 {

// What a row holds: low <= 0 <= high, of no meaning when it is not finite.
struct RowRange {
  float low, high;
  bool finite;
};

struct RowScale {
  float scale, inverse;
  int32_t zero_point;
  bool zero;  // nothing to round: a zero row, or one with NaN or Inf (scale NaN turns its outputs into NaN)
};

namespace {

constexpr RowScale kNoScale{__builtin_nanf(""), 0.0f, 0, true};

EK_INLINE RowScale scale_of(const ek_int8_range& range) { return {range.scale, 1.0f / range.scale, range.zero_point, false}; }

EK_INLINE RowScale scale_of(RowRange range) {
  auto [low, high, finite] = range;
  float scale = high / 255.0f - low / 255.0f;  // divided first: high - low may overflow
  if (!finite) return kNoScale;
  if (!(scale >= kSmallestScale)) return {1.0f, 0.0f, 0, true};  // a row that counts as zero
  float inverse = 1.0f / scale;
  // Adding 1.5 * 2^23 leaves round-half-even(v) in the low mantissa bits, for |v| < 2^22.
  float magic = -low * inverse + 12582912.0f;
  int32_t bits;
  memcpy(&bits, &magic, 4);
  int32_t zero_point = bits - 0x4b400000;
  return {scale, inverse, zero_point < 0 ? 0 : zero_point > 255 ? 255 : zero_point, false};
}

}  // namespace
}  // namespace edgekern::int8
