// The int8 operations: validate, choose what the packed matrix's form asks for, and run it.
#include <stdint.h>
#include <string.h>

#include "base/activation.h"
#include "base/dtype.h"
#include "base/parallel.h"
#include "formats/int8/layout.h"
#include "isa/kernels.h"
#include "ops/int8_forms.h"

namespace edgekern::int8 {
namespace {

size_t workspace_of(const edgekern::Kernels& kernels, ek_int8_form form, int64_t m, int64_t k) {
  return in_panels(form) ? panels_workspace(kernels, form, m, k) : blocks_workspace(kernels, form, m, k);
}

// Whether rows that are rounded for the one are rounded for the other too.
bool same_range(const ek_int8_range* a, const ek_int8_range* b) {
  return a == nullptr || b == nullptr ? a == b : memcmp(a, b, sizeof(*a)) == 0;
}

// What every entry point checks first. On EK_OK, *part is set, but for the rest of its output.
ek_status open_part(const edgekern::Kernels& kernels, const ek_part& given, int64_t m, const void* lhs, int64_t ld_lhs,
                    const void* workspace, size_t workspace_size, Part* part) {
  ek_status status = open_packed(given.packed, given.packed_size, &part->layout);
  if (status != EK_OK) return status;
  const Layout& layout = part->layout;
  if (!(layout.order == order_of(kernels, layout.form))) return EK_ERROR_ORDER;
  part->packed = given.packed;
  part->output = {given.y, given.ld_y, EK_F32, EK_NONE, false};
  if (m < 0) return EK_ERROR_SHAPE;
  if (m == 0 || layout.n == 0) return EK_OK;
  if ((lhs == nullptr && layout.k > 0) || given.y == nullptr || workspace == nullptr) return EK_ERROR_NULL_POINTER;
  if (m > 1 && (ld_lhs < layout.k || given.ld_y < layout.n)) return EK_ERROR_STRIDE;
  return workspace_size < workspace_of(kernels, layout.form, m, layout.k) ? EK_ERROR_WORKSPACE : EK_OK;
}

// Those in panels together, the others one by one.
void run(const edgekern::Kernels& kernels, const Part* parts, int64_t count, int64_t m, const Input& input, void* workspace,
         const ek_parallel* parallel) {
  Part together[EK_MAX_PARTS];
  int64_t found = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (parts[i].layout.n == 0) continue;
    if (in_panels(parts[i].layout.form))
      together[found++] = parts[i];
    else
      run_blocks(kernels, parts[i], m, input, workspace, parallel);
  }
  if (found > 0) run_panels(kernels, together, found, m, input, workspace, parallel);
}

}  // namespace
}  // namespace edgekern::int8

using namespace edgekern;
using namespace edgekern::int8;

extern "C" size_t ek_int8_workspace_size(const ek_isa* isa, ek_int8_form form, int64_t m, int64_t k) {
  const edgekern::Kernels* kernels = nullptr;
  if (m < 0 || !valid_shape(0, k) || functions_of(form) == nullptr || resolve_isa(isa, &kernels) != EK_OK) return 0;
  return workspace_of(*kernels, form, m, k);
}

extern "C" ek_status ek_int8_linears(const ek_isa* isa, const ek_part* parts, int64_t count, int64_t m, const void* lhs,
                                     ek_dtype dtype, int64_t ld_lhs, ek_activation activation, void* workspace,
                                     size_t workspace_size, const ek_parallel* parallel) {
  if (!valid_dtype(dtype)) return EK_ERROR_DTYPE;
  if (!valid_activation(activation)) return EK_ERROR_ACTIVATION;
  if (count < 1 || count > EK_MAX_PARTS) return EK_ERROR_PARTS;
  if (parts == nullptr) return EK_ERROR_NULL_POINTER;
  const edgekern::Kernels* kernels = nullptr;
  ek_status status = resolve_isa(isa, &kernels);
  Part opened[EK_MAX_PARTS];
  for (int64_t i = 0; i < count && status == EK_OK; ++i) {
    status = open_part(*kernels, parts[i], m, lhs, ld_lhs, workspace, workspace_size, &opened[i]);
    bool alike = status != EK_OK || (opened[i].layout.k == opened[0].layout.k &&
                                     same_range(range_of(opened[i].packed), range_of(opened[0].packed)));
    if (!alike) status = EK_ERROR_PARTS;
    opened[i].output.dtype = dtype;
    opened[i].output.activation = activation;
  }
  if (status != EK_OK || m == 0) return status;
  run(*kernels, opened, count, m, {lhs, dtype, ld_lhs, nullptr, range_of(opened[0].packed)}, workspace, parallel);
  return EK_OK;
}

extern "C" ek_status ek_int8_linear(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const void* lhs,
                                    ek_dtype dtype, int64_t ld_lhs, void* y, int64_t ld_y, ek_activation activation,
                                    void* workspace, size_t workspace_size, const ek_parallel* parallel) {
  ek_part part{packed, packed_size, y, ld_y};
  return ek_int8_linears(isa, &part, 1, m, lhs, dtype, ld_lhs, activation, workspace, workspace_size, parallel);
}

extern "C" ek_status ek_int8_quantize_lhs(const ek_isa* isa, int64_t m, int64_t k, const void* lhs, ek_dtype dtype,
                                          int64_t ld_lhs, const ek_int8_range* range, uint8_t* q, int64_t ld_q, float* scale,
                                          int32_t* zero_point, const ek_parallel* parallel) {
  if (!valid_dtype(dtype)) return EK_ERROR_DTYPE;
  if (range != nullptr && !valid_range(*range)) return EK_ERROR_VALUE;
  if (m < 0 || !valid_shape(0, k)) return EK_ERROR_SHAPE;
  const edgekern::Kernels* kernels = nullptr;
  ek_status status = resolve_isa(isa, &kernels);
  if (status != EK_OK || m == 0) return status;
  if (scale == nullptr || zero_point == nullptr || (k > 0 && (lhs == nullptr || q == nullptr))) return EK_ERROR_NULL_POINTER;
  if (m > 1 && (ld_lhs < k || ld_q < k)) return EK_ERROR_STRIDE;
  parallel_for(parallel, m, [&](int64_t begin, int64_t end) {
    kernels->int8.quantize_u8(lhs, dtype, ld_lhs, k, range, begin, end, q, ld_q, scale, zero_point);
  });
  return EK_OK;
}

extern "C" ek_status ek_int8_matmul_s32(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const uint8_t* q,
                                        int64_t ld_q, const int32_t* zero_point, int32_t* acc, int64_t ld_acc, void* workspace,
                                        size_t workspace_size, const ek_parallel* parallel) {
  const edgekern::Kernels* kernels = nullptr;
  ek_status status = resolve_isa(isa, &kernels);
  if (status != EK_OK) return status;
  Part part;
  status = open_part(*kernels, {packed, packed_size, acc, ld_acc}, m, q, ld_q, workspace, workspace_size, &part);
  if (status != EK_OK || m == 0 || part.layout.n == 0) return status;
  if (zero_point == nullptr) return EK_ERROR_NULL_POINTER;
  if (part.layout.k > kBlockDepth) return EK_ERROR_SHAPE;
  part.output.integers = true;
  run(*kernels, &part, 1, m, {q, EK_F32, ld_q, zero_point, nullptr}, workspace, parallel);
  return EK_OK;
}
