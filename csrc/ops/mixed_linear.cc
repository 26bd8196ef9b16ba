// Layers of int8 and int4 weights whose activations stay floats: validate, make rows f32, multiply.
#include "base/activation.h"
#include "base/dtype.h"
#include "formats/shape.h"
#include "ops/dense_rhs.h"
#include "ops/output.h"
#include "ops/panels.h"

namespace edgekern::mixed {
namespace {

// Rows of f32 in the caller's workspace.
struct Slab {
  int64_t rows, stride;

  Slab(const Kernels& kernels, int64_t m, int64_t k) {
    // A vector beyond the row: tails are stored whole, and rows do not all start in the same cache set.
    stride = round_up(k, 16) + 16;
    rows = min_of(m, max_of(round_up(kSlabBytes / (4 * stride), kernels.rows), 8 * kernels.rows));
  }
  size_t bytes() const { return static_cast<size_t>(64 + rows * stride * 4); }

  LhsRows at(void* workspace) const {
    return {reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(workspace) + 63) & ~uintptr_t{63}), stride, rows};
  }
};

size_t workspace_size(const ek_isa* isa, int64_t m, int64_t k) {
  const edgekern::Kernels* kernels = nullptr;
  if (m < 0 || !valid_shape(0, k) || resolve_isa(isa, &kernels) != EK_OK) return 0;
  return Slab(kernels->mixed, m, k).bytes();
}

// The layer's rows and where its results go.
struct Call {
  int64_t m;
  const void* lhs;
  int64_t ld_lhs;
  Output output;
  void* workspace;
  size_t workspace_size;
  const ek_parallel* parallel;
};

template <class Rhs>
using Gemm = void (*)(const Args<Rhs>& args, int64_t m0, int64_t m1, int64_t p0, int64_t p1);

template <class Rhs>
ek_status linear(const ek_isa* isa, const void* packed, size_t packed_size, Gemm<Rhs> Kernels::*gemm, const Call& call) {
  const Output& output = call.output;
  const int64_t m = call.m;
  if (!valid_dtype(output.dtype)) return EK_ERROR_DTYPE;
  if (!valid_activation(output.activation)) return EK_ERROR_ACTIVATION;
  DenseRhs<Rhs> matrix{};
  ek_status status = open_dense(isa, packed, packed_size, &matrix);
  if (status != EK_OK) return status;
  const int64_t n = matrix.rhs.n, k = matrix.k;
  if (m < 0) return EK_ERROR_SHAPE;
  if (m == 0 || n == 0) return EK_OK;
  if ((call.lhs == nullptr && k > 0) || output.y == nullptr || call.workspace == nullptr) return EK_ERROR_NULL_POINTER;
  if (m > 1 && (call.ld_lhs < k || output.ld_y < n)) return EK_ERROR_STRIDE;
  const Kernels& kernels = matrix.kernels->mixed;
  Slab slab(kernels, m, k);
  if (call.workspace_size < slab.bytes()) return EK_ERROR_WORKSPACE;

  panels::Layer<Args<Rhs>, Gemm<Rhs>> layer{{slab.at(call.workspace), matrix.rhs, output}, kernels.*gemm};
  panels::run_rows(kernels.rows, slab.rows, m, k, &layer, 1, call.parallel,
                   [&](int64_t start, int64_t m0, int64_t m1, const LhsRows& rows) {
                     const char* from = static_cast<const char*>(call.lhs) + start * call.ld_lhs * bytes_of(output.dtype);
                     kernels.load(from, output.dtype, call.ld_lhs, k, matrix.rhs.padded_k, m0, m1, rows);
                   });
  return EK_OK;
}

}  // namespace
}  // namespace edgekern::mixed

using namespace edgekern;

extern "C" size_t ek_int8_float_workspace_size(const ek_isa* isa, int64_t m, int64_t k) {
  return mixed::workspace_size(isa, m, k);
}

extern "C" ek_status ek_int8_float_linear(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const void* lhs,
                                          ek_dtype dtype, int64_t ld_lhs, void* y, int64_t ld_y, ek_activation activation,
                                          void* workspace, size_t workspace_size, const ek_parallel* parallel) {
  return mixed::linear<int8::RhsPanels>(
      isa, packed, packed_size, &mixed::Kernels::gemm_int8,
      {m, lhs, ld_lhs, {y, ld_y, dtype, activation, false}, workspace, workspace_size, parallel});
}

extern "C" size_t ek_int4_float_workspace_size(const ek_isa* isa, int64_t m, int64_t k) {
  return mixed::workspace_size(isa, m, k);
}

extern "C" ek_status ek_int4_float_linear(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const void* lhs,
                                          ek_dtype dtype, int64_t ld_lhs, void* y, int64_t ld_y, ek_activation activation,
                                          void* workspace, size_t workspace_size, const ek_parallel* parallel) {
  return mixed::linear<int4::RhsPanels>(
      isa, packed, packed_size, &mixed::Kernels::gemm_int4,
      {m, lhs, ld_lhs, {y, ld_y, dtype, activation, false}, workspace, workspace_size, parallel});
}
