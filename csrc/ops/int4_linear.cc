// The int4 operations: validate, quantise, multiply.
#include "base/dtype.h"
#include "formats/int4/layout.h"
#include "isa/kernels.h"
#include "ops/panels.h"

namespace edgekern::int4 {
namespace {

using Gemm = decltype(Kernels::gemm);

Gemm gemm_of(const Kernels& kernels, ek_int4_form form) {
  return form == EK_INT4_DENSE ? kernels.gemm : form == EK_INT4_BITMAP ? kernels.gemm_bitmap : kernels.gemm_bitmap_2;
}

RhsPanels panels_of(const void* packed, const Layout& layout) {
  RhsPanels rhs{.n = layout.n,
                .padded_n = layout.padded_n(),
                .padded_k = layout.padded_k(),
                .group_size = layout.group_size,
                .groups = layout.groups(),
                .scale = at<uint16_t>(packed, layout.scale_offset()),
                .zero = layout.has_zero ? at<uint8_t>(packed, layout.zero_offset()) : nullptr,
                .lines = at<uint8_t>(packed, layout.body_offset()),
                .masks = nullptr,
                .starts = nullptr,
                .weight_sum = at<float>(packed, layout.weight_sum_offset()),
                .bias = at<float>(packed, layout.bias_offset())};
  if (layout.form == EK_INT4_DENSE) return rhs;
  BitmapParts parts = layout.bitmap();
  rhs.lines = at<uint8_t>(packed, parts.values_offset());
  rhs.masks = at<uint8_t>(packed, parts.masks_offset());
  rhs.starts = at<uint64_t>(packed, parts.begin);
  return rhs;
}

// A row's sums over groups of any size are no more.
panels::Slab slab_of(const Kernels& kernels, int64_t m, int64_t k) {
  return {kernels.lhs, m, k, max_of(1, ceil_div(k, kSmallestGroup))};
}

}  // namespace
}  // namespace edgekern::int4

using namespace edgekern;

extern "C" size_t ek_int4_workspace_size(const ek_isa* isa, int64_t m, int64_t k) {
  const edgekern::Kernels* kernels = nullptr;
  if (m < 0 || !valid_shape(0, k) || resolve_isa(isa, &kernels) != EK_OK) return 0;
  return int4::slab_of(kernels->int4, m, k).bytes();
}

extern "C" ek_status ek_int4_linear(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const void* lhs,
                                    ek_dtype dtype, int64_t ld_lhs, void* y, int64_t ld_y, ek_activation activation,
                                    void* workspace, size_t workspace_size, const ek_parallel* parallel) {
  if (!valid_dtype(dtype)) return EK_ERROR_DTYPE;
  if (activation < EK_NONE || activation > EK_SILU) return EK_ERROR_ACTIVATION;
  int4::Layout layout{};
  ek_status status = int4::open_packed(packed, packed_size, &layout);
  if (status != EK_OK) return status;
  const edgekern::Kernels* all = nullptr;
  status = resolve_isa(isa, &all);
  if (status != EK_OK) return status;
  const int4::Kernels& kernels = all->int4;
  if (layout.line_depth != kernels.line_depth) return EK_ERROR_ORDER;
  if (m < 0) return EK_ERROR_SHAPE;
  if (m == 0 || layout.n == 0) return EK_OK;
  if ((lhs == nullptr && layout.k > 0) || y == nullptr || workspace == nullptr) return EK_ERROR_NULL_POINTER;
  if (m > 1 && (ld_lhs < layout.k || ld_y < layout.n)) return EK_ERROR_STRIDE;
  panels::Slab slab = int4::slab_of(kernels, m, layout.k);
  if (workspace_size < slab.bytes()) return EK_ERROR_WORKSPACE;

  int4::GemmArgs args{slab.at(workspace), int4::panels_of(packed, layout), {y, ld_y, dtype, activation, false}};
  panels::run_rows(kernels.lhs, slab, m, layout.k, args, int4::gemm_of(kernels, layout.form), parallel,
                   [&](int64_t start, int64_t m0, int64_t m1, const int8::LhsRows& rows) {
                     const char* from = static_cast<const char*>(lhs) + start * ld_lhs * bytes_of(dtype);
                     kernels.quantize(from, dtype, ld_lhs, layout.k, layout.group_size, m0, m1, rows);
                   });
  return EK_OK;
}
