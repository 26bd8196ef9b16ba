// Canonical int4 weights from floats: round to nearest, group by group. Runs once a layer, at convert time.
#include <math.h>
#include <string.h>

#include <atomic>

#include "base/dtype.h"
#include "base/parallel.h"
#include "formats/int4/layout.h"

namespace edgekern::int4 {
namespace {

struct Range {
  float low, high;  // with zero between them
  bool finite;
};

Range range_of(const void* rhs, ek_dtype dtype, int64_t offset, int64_t count) {
  Range range{0.0f, 0.0f, true};
  for (int64_t i = 0; i < count; ++i) {
    float value = float_at(rhs, dtype, offset + i);
    range.finite = range.finite && isfinite(value);
    range.low = value < range.low ? value : range.low;
    range.high = value > range.high ? value : range.high;
  }
  return range;
}

int clamp_nibble(long value) { return static_cast<int>(value < 0 ? 0 : value > 15 ? 15 : value); }

void put_nibble(uint8_t* row, int64_t k, int value) {
  uint8_t kept = k % 2 == 0 ? 0 : row[k / 2];  // the low nibble of a byte comes first
  row[k / 2] = static_cast<uint8_t>(kept | value << 4 * (k % 2));
}

// One group, k values from k0 on. False when its values cannot be scaled. zero: nullptr for symmetric.
bool quantize_group(const void* rhs, ek_dtype dtype, int64_t offset, int64_t k0, int64_t count, uint8_t* row, uint16_t* scale,
                    uint8_t* zero) {
  Range range = range_of(rhs, dtype, offset + k0, count);
  if (!range.finite) return false;
  // Divided first: high - low may overflow.
  float wanted = zero == nullptr ? fmaxf(range.high / 7.0f, -range.low / 8.0f) : range.high / 15.0f - range.low / 15.0f;
  *scale = f32_to_f16(wanted);
  float used = f16_to_f32(*scale);
  if (!isfinite(used)) return false;
  bool empty = used == 0.0f;
  if (empty) *scale = f32_to_f16(1.0f);
  int middle = zero == nullptr ? kSymmetricZero : empty ? 0 : clamp_nibble(lrintf(-range.low / used));
  if (zero != nullptr) *zero = static_cast<uint8_t>(middle);
  for (int64_t k = k0; k < k0 + count; ++k)
    put_nibble(row, k, empty ? middle : clamp_nibble(lrintf(float_at(rhs, dtype, offset + k) / used) + middle));
  return true;
}

}  // namespace
}  // namespace edgekern::int4

using namespace edgekern;
using namespace edgekern::int4;

extern "C" ek_status ek_int4_quantize_rhs(int64_t n, int64_t k, int64_t group_size, const void* rhs, ek_dtype dtype,
                                          int64_t ld_rhs, uint8_t* w, int64_t ld_w, uint16_t* scale, uint8_t* zero,
                                          const ek_parallel* parallel) {
  if (!valid_shape(n, k)) return EK_ERROR_SHAPE;
  if (!valid_group_size(group_size)) return EK_ERROR_GROUP;
  if (!valid_dtype(dtype)) return EK_ERROR_DTYPE;
  if (n > 0 && k > 0 && (rhs == nullptr || w == nullptr || scale == nullptr)) return EK_ERROR_NULL_POINTER;
  if (n > 1 && (ld_rhs < k || ld_w < ceil_div(k, 2))) return EK_ERROR_STRIDE;
  int64_t groups = ceil_div(k, group_size);
  std::atomic<bool> possible{true};
  parallel_for(parallel, n, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t g = 0; g < groups; ++g) {
        int64_t k0 = g * group_size, at = row * groups + g;
        if (!quantize_group(rhs, dtype, row * ld_rhs, k0, min_of(group_size, k - k0), w + row * ld_w, scale + at,
                            zero == nullptr ? nullptr : zero + at))
          possible = false;
      }
  });
  return possible ? EK_OK : EK_ERROR_VALUE;
}
