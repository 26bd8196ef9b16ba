// The int4 operations: validate, quantise, multiply.
#include "base/activation.h"
#include "base/dtype.h"
#include "formats/int4/layout.h"
#include "isa/kernels.h"
#include "ops/int4_forms.h"
#include "ops/panels.h"

namespace edgekern::int4 {
namespace {

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

extern "C" ek_status ek_int4_linears(const ek_isa* isa, const ek_part* parts, int64_t count, int64_t m, const void* lhs,
                                     ek_dtype dtype, int64_t ld_lhs, ek_activation activation, void* workspace,
                                     size_t workspace_size, const ek_parallel* parallel) {
  if (!valid_dtype(dtype)) return EK_ERROR_DTYPE;
  if (!valid_activation(activation)) return EK_ERROR_ACTIVATION;
  if (count < 1 || count > EK_MAX_PARTS) return EK_ERROR_PARTS;
  if (parts == nullptr) return EK_ERROR_NULL_POINTER;
  int4::Layout layouts[EK_MAX_PARTS];
  for (int64_t i = 0; i < count; ++i) {
    ek_status status = int4::open_packed(parts[i].packed, parts[i].packed_size, &layouts[i]);
    if (status != EK_OK) return status;
    if (layouts[i].k != layouts[0].k || layouts[i].group_size != layouts[0].group_size) return EK_ERROR_PARTS;
  }
  const edgekern::Kernels* all = nullptr;
  ek_status status = resolve_isa(isa, &all);
  if (status != EK_OK) return status;
  const int4::Kernels& kernels = all->int4;
  const int64_t k = layouts[0].k;
  panels::Layer<int4::GemmArgs, int4::Gemm> layers[EK_MAX_PARTS];
  int64_t found = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int4::Layout& layout = layouts[i];
    if (layout.line_depth != kernels.line_depth) return EK_ERROR_ORDER;
    if (m < 0) return EK_ERROR_SHAPE;
    if (m == 0 || layout.n == 0) continue;
    if ((lhs == nullptr && k > 0) || parts[i].y == nullptr || workspace == nullptr) return EK_ERROR_NULL_POINTER;
    if (m > 1 && (ld_lhs < k || parts[i].ld_y < layout.n)) return EK_ERROR_STRIDE;
    layers[found++] = {{{}, int4::panels_of(parts[i].packed, layout), {parts[i].y, parts[i].ld_y, dtype, activation, false}},
                       int4::gemm_of(kernels, layout.form)};
  }
  if (found == 0) return EK_OK;
  panels::Slab slab = int4::slab_of(kernels, m, k);
  if (workspace_size < slab.bytes()) return EK_ERROR_WORKSPACE;
  for (int64_t i = 0; i < found; ++i) layers[i].args.lhs = slab.at(workspace);
  panels::run_rows(kernels.lhs.rows, slab.rows, m, k, layers, found, parallel,
                   [&](int64_t start, int64_t m0, int64_t m1, const int8::LhsRows& rows) {
                     const char* from = static_cast<const char*>(lhs) + start * ld_lhs * bytes_of(dtype);
                     kernels.quantize(from, dtype, ld_lhs, k, layouts[0].group_size, m0, m1, rows);
                   });
  return EK_OK;
}

extern "C" ek_status ek_int4_linear(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const void* lhs,
                                    ek_dtype dtype, int64_t ld_lhs, void* y, int64_t ld_y, ek_activation activation,
                                    void* workspace, size_t workspace_size, const ek_parallel* parallel) {
  ek_part part{packed, packed_size, y, ld_y};
  return ek_int4_linears(isa, &part, 1, m, lhs, dtype, ld_lhs, activation, workspace, workspace_size, parallel);
}
