// The int8 operations: validate, choose what the packed matrix's form asks for, and run it.
#include <stdint.h>

#include "base/dtype.h"
#include "base/parallel.h"
#include "formats/int8/layout.h"
#include "isa/kernels.h"
#include "ops/int8_forms.h"

namespace edgekern::int8 {
namespace {

// What a form needs to run.
struct Runner {
  Order order;
  size_t (*workspace)(const edgekern::Kernels& kernels, ek_int8_form form, int64_t m, int64_t k);
  void (*run)(const edgekern::Kernels& kernels, const Layout& layout, const void* packed, int64_t m, const Input& input,
              const Output& output, void* workspace, const ek_parallel* parallel);
};

Runner runner_of(const edgekern::Kernels& kernels, ek_int8_form form) {
  if (in_panels(form)) return {kernels.int8.order, panels_workspace, run_panels};
  return {kernels.int8_blocks.order, blocks_workspace, run_blocks};
}

// What every entry point checks first. On EK_OK, *layout and *kernels are set; *work is false when there is nothing to do.
struct Call {
  Layout layout{};
  const edgekern::Kernels* kernels = nullptr;
  Runner runner{};
  bool work = false;
};

ek_status open_call(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const void* lhs, int64_t ld_lhs,
                    const void* y, int64_t ld_y, const void* workspace, size_t workspace_size, Call* call) {
  ek_status status = open_packed(packed, packed_size, &call->layout);
  if (status != EK_OK) return status;
  status = resolve_isa(isa, &call->kernels);
  if (status != EK_OK) return status;
  const Layout& layout = call->layout;
  call->runner = runner_of(*call->kernels, layout.form);
  if (!(layout.order == call->runner.order)) return EK_ERROR_ORDER;
  if (m < 0) return EK_ERROR_SHAPE;
  if (m == 0 || layout.n == 0) return EK_OK;
  call->work = true;
  if ((lhs == nullptr && layout.k > 0) || y == nullptr || workspace == nullptr) return EK_ERROR_NULL_POINTER;
  if (m > 1 && (ld_lhs < layout.k || ld_y < layout.n)) return EK_ERROR_STRIDE;
  return workspace_size < call->runner.workspace(*call->kernels, layout.form, m, layout.k) ? EK_ERROR_WORKSPACE : EK_OK;
}

}  // namespace
}  // namespace edgekern::int8

using namespace edgekern;
using namespace edgekern::int8;

extern "C" size_t ek_int8_workspace_size(const ek_isa* isa, ek_int8_form form, int64_t m, int64_t k) {
  const edgekern::Kernels* kernels = nullptr;
  if (m < 0 || !valid_shape(0, k) || functions_of(form) == nullptr || resolve_isa(isa, &kernels) != EK_OK) return 0;
  return runner_of(*kernels, form).workspace(*kernels, form, m, k);
}

extern "C" ek_status ek_int8_linear(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const void* lhs,
                                    ek_dtype dtype, int64_t ld_lhs, void* y, int64_t ld_y, ek_activation activation,
                                    void* workspace, size_t workspace_size, const ek_parallel* parallel) {
  if (!valid_dtype(dtype)) return EK_ERROR_DTYPE;
  if (activation < EK_NONE || activation > EK_SILU) return EK_ERROR_ACTIVATION;
  Call call;
  ek_status status = open_call(isa, packed, packed_size, m, lhs, ld_lhs, y, ld_y, workspace, workspace_size, &call);
  if (status != EK_OK || !call.work) return status;
  call.runner.run(*call.kernels, call.layout, packed, m, {lhs, dtype, ld_lhs, nullptr}, {y, ld_y, dtype, activation, false},
                  workspace, parallel);
  return EK_OK;
}

extern "C" ek_status ek_int8_quantize_lhs(const ek_isa* isa, int64_t m, int64_t k, const void* lhs, ek_dtype dtype,
                                          int64_t ld_lhs, uint8_t* q, int64_t ld_q, float* scale, int32_t* zero_point,
                                          const ek_parallel* parallel) {
  if (!valid_dtype(dtype)) return EK_ERROR_DTYPE;
  if (m < 0 || !valid_shape(0, k)) return EK_ERROR_SHAPE;
  const edgekern::Kernels* kernels = nullptr;
  ek_status status = resolve_isa(isa, &kernels);
  if (status != EK_OK || m == 0) return status;
  if (scale == nullptr || zero_point == nullptr || (k > 0 && (lhs == nullptr || q == nullptr))) return EK_ERROR_NULL_POINTER;
  if (m > 1 && (ld_lhs < k || ld_q < k)) return EK_ERROR_STRIDE;
  parallel_for(parallel, m, [&](int64_t begin, int64_t end) {
    kernels->int8.quantize_u8(lhs, dtype, ld_lhs, k, begin, end, q, ld_q, scale, zero_point);
  });
  return EK_OK;
}

extern "C" ek_status ek_int8_matmul_s32(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const uint8_t* q,
                                        int64_t ld_q, const int32_t* zero_point, int32_t* acc, int64_t ld_acc, void* workspace,
                                        size_t workspace_size, const ek_parallel* parallel) {
  Call call;
  ek_status status = open_call(isa, packed, packed_size, m, q, ld_q, acc, ld_acc, workspace, workspace_size, &call);
  if (status != EK_OK || !call.work) return status;
  if (zero_point == nullptr) return EK_ERROR_NULL_POINTER;
  if (call.layout.k > kBlockDepth) return EK_ERROR_SHAPE;
  call.runner.run(*call.kernels, call.layout, packed, m, {q, EK_F32, ld_q, zero_point}, {acc, ld_acc, EK_F32, EK_NONE, true},
                  workspace, parallel);
  return EK_OK;
}
