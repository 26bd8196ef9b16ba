// The f32 operations: validate, cut into tiles of rows, multiply by kept blocks.
#include "base/dtype.h"
#include "formats/f32/layout.h"
#include "formats/shape.h"
#include "isa/kernels.h"
#include "ops/kept_blocks.h"
#include "ops/output.h"

namespace edgekern::f32 {
namespace {

blocks::Slab slab_of(const Kernels& kernels, int64_t channels, int64_t m, int64_t k) {
  return {kernels, channels, m, round_up(k, kernels.narrowest)};
}

}  // namespace
}  // namespace edgekern::f32

using namespace edgekern;

extern "C" size_t ek_f32_workspace_size(const ek_isa* isa, int64_t channels, int64_t m, int64_t k) {
  const edgekern::Kernels* kernels = nullptr;
  if (!blocks::valid_group_rows(channels) || m < 0 || !valid_shape(0, k) || resolve_isa(isa, &kernels) != EK_OK) return 0;
  return f32::slab_of(kernels->f32, channels, m, k).bytes();
}

extern "C" ek_status ek_f32_linear(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const void* lhs,
                                   ek_dtype dtype, int64_t ld_lhs, void* y, int64_t ld_y, ek_activation activation,
                                   void* workspace, size_t workspace_size, const ek_parallel* parallel) {
  if (!valid_dtype(dtype)) return EK_ERROR_DTYPE;
  if (activation < EK_NONE || activation > EK_SILU) return EK_ERROR_ACTIVATION;
  blocks::Layout layout{};
  ek_status status = f32::open_packed(packed, packed_size, &layout);
  if (status != EK_OK) return status;
  const edgekern::Kernels* all = nullptr;
  status = resolve_isa(isa, &all);
  if (status != EK_OK) return status;
  if (m < 0) return EK_ERROR_SHAPE;
  if (m == 0 || layout.n == 0) return EK_OK;
  if ((lhs == nullptr && layout.k > 0) || y == nullptr || workspace == nullptr) return EK_ERROR_NULL_POINTER;
  if (m > 1 && (ld_lhs < layout.k || ld_y < layout.n)) return EK_ERROR_STRIDE;
  const f32::Kernels& kernels = all->f32;
  blocks::Slab slab = f32::slab_of(kernels, layout.group_rows, m, layout.k);
  if (workspace_size < slab.bytes()) return EK_ERROR_WORKSPACE;

  Output output{y, ld_y, dtype, activation, false};
  f32::SpmmArgs args{{slab.tiles, slab.words<float>(workspace)},
                     blocks::rhs_of<float>(layout, packed),
                     at<float>(packed, f32::kBiasOffset),
                     output};
  for (int64_t m0 = 0; m0 < m; m0 += slab.tiles.rows) {
    args.lhs.tiles.rows = min_of(slab.tiles.rows, m - m0);
    args.output = from_row(output, m0);
    const char* rows = static_cast<const char*>(lhs) + m0 * ld_lhs * bytes_of(dtype);
    auto read = [&](int64_t begin, int64_t end) { kernels.load(rows, dtype, ld_lhs, layout.k, begin, end, args.lhs); };
    blocks::run_slab(kernels, layout, packed, args.lhs.tiles, parallel, read, args);
  }
  return EK_OK;
}
