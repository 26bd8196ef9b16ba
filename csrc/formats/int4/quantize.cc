// Canonical int4 weights from floats: round to nearest, group by group. Runs once a layer, at convert time.
#include <atomic>

#include "base/parallel.h"
#include "formats/int4/grid.h"

namespace edgekern::int4 {
namespace {

void put_nibble(uint8_t* row, int64_t k, int value) {
  uint8_t kept = k % 2 == 0 ? 0 : row[k / 2];  // the low nibble of a byte comes first
  row[k / 2] = static_cast<uint8_t>(kept | value << 4 * (k % 2));
}

// Writes a group that begins at k0 of its row. False when its values cannot be scaled. zero: nullptr for symmetric.
bool quantize_group(const Group& group, ek_int4_clip clip, int64_t k0, uint8_t* row, uint16_t* scale, uint8_t* zero) {
  if (!group.finite) return false;
  Grid grid = choose_grid(group, clip);
  if (!isfinite(grid.scale)) return false;
  bool empty = grid.scale == 0.0f;
  *scale = empty ? f32_to_f16(1.0f) : grid.half;
  if (zero != nullptr) *zero = static_cast<uint8_t>(grid.zero);
  for (int64_t i = 0; i < group.count; ++i) put_nibble(row, k0 + i, grid.zero + (empty ? 0 : level_of(group.values[i], grid)));
  return true;
}

}  // namespace
}  // namespace edgekern::int4

using namespace edgekern;
using namespace edgekern::int4;

extern "C" ek_status ek_int4_quantize_rhs(int64_t n, int64_t k, int64_t group_size, ek_int4_clip clip, const void* rhs,
                                          ek_dtype dtype, int64_t ld_rhs, uint8_t* w, int64_t ld_w, uint16_t* scale,
                                          uint8_t* zero, const ek_parallel* parallel) {
  if (!valid_shape(n, k)) return EK_ERROR_SHAPE;
  if (!valid_group_size(group_size)) return EK_ERROR_GROUP;
  if (clip < EK_INT4_CLIP_NONE || clip > EK_INT4_CLIP_HQQ) return EK_ERROR_CLIP;
  if (!valid_dtype(dtype)) return EK_ERROR_DTYPE;
  if (n > 0 && k > 0 && (rhs == nullptr || w == nullptr || scale == nullptr)) return EK_ERROR_NULL_POINTER;
  if (n > 1 && (ld_rhs < k || ld_w < ceil_div(k, 2))) return EK_ERROR_STRIDE;
  int64_t groups = ceil_div(k, group_size);
  std::atomic<bool> possible{true};
  parallel_for(parallel, n, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t g = 0; g < groups; ++g) {
        int64_t k0 = g * group_size, at = row * groups + g;
        Group group = read_group(rhs, dtype, row * ld_rhs + k0, min_of(group_size, k - k0), zero == nullptr);
        if (!quantize_group(group, clip, k0, w + row * ld_w, scale + at, zero == nullptr ? nullptr : zero + at))
          possible = false;
      }
  });
  return possible ? EK_OK : EK_ERROR_VALUE;
}
