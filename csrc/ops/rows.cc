// Norms, gates and rotations of rows of floats: validate, then each thread some of the rows.
#include <math.h>
#include <stdint.h>

#include "base/activation.h"
#include "base/dtype.h"
#include "base/parallel.h"
#include "isa/kernels.h"

namespace edgekern::rows {
namespace {

constexpr int64_t kSerialElements = 32 * 1024;  // below this many a second thread costs more than it brings

// Whether every row of m, ld apart, is one of n.
bool valid_rows(int64_t m, int64_t n, int64_t ld) { return m <= 1 || ld >= n; }

ek_status open(const ek_isa* isa, int64_t m, int64_t n, ek_dtype dtype, const edgekern::Kernels** kernels) {
  if (!valid_dtype(dtype)) return EK_ERROR_DTYPE;
  if (m < 0 || n < 0) return EK_ERROR_SHAPE;
  return resolve_isa(isa, kernels);
}

template <class Row>
void each_row(const ek_parallel* parallel, int64_t m, int64_t n, const Row& row) {
  parallel_for(m * n < kSerialElements ? nullptr : parallel, m, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) row(i);
  });
}

}  // namespace
}  // namespace edgekern::rows

using namespace edgekern;
using namespace edgekern::rows;

extern "C" ek_status ek_rms_norm(const ek_isa* isa, int64_t m, int64_t n, const void* x, ek_dtype dtype, int64_t ld_x,
                                 const void* weight, float eps, void* y, int64_t ld_y, const ek_parallel* parallel) {
  const edgekern::Kernels* kernels = nullptr;
  const ek_status status = open(isa, m, n, dtype, &kernels);
  if (status != EK_OK || m == 0 || n == 0) return status;
  if (!(eps >= 0)) return EK_ERROR_VALUE;
  if (x == nullptr || weight == nullptr || y == nullptr) return EK_ERROR_NULL_POINTER;
  if (!valid_rows(m, n, ld_x) || !valid_rows(m, n, ld_y)) return EK_ERROR_STRIDE;
  each_row(parallel, m, n, [&](int64_t i) {
    const float mean = kernels->rows.sum_squares(x, dtype, i * ld_x, n) / static_cast<float>(n);
    kernels->rows.scale(x, i * ld_x, weight, dtype, n, 1.0f / sqrtf(mean + eps), y, i * ld_y);
  });
  return EK_OK;
}

extern "C" ek_status ek_gate(const ek_isa* isa, int64_t m, int64_t n, const void* z, int64_t ld_z, const void* x, int64_t ld_x,
                             ek_dtype dtype, ek_activation activation, void* y, int64_t ld_y, const ek_parallel* parallel) {
  const edgekern::Kernels* kernels = nullptr;
  if (!valid_activation(activation)) return EK_ERROR_ACTIVATION;
  const ek_status status = open(isa, m, n, dtype, &kernels);
  if (status != EK_OK || m == 0 || n == 0) return status;
  if (z == nullptr || x == nullptr || y == nullptr) return EK_ERROR_NULL_POINTER;
  if (!valid_rows(m, n, ld_z) || !valid_rows(m, n, ld_x) || !valid_rows(m, n, ld_y)) return EK_ERROR_STRIDE;
  each_row(parallel, m, n, [&](int64_t i) { kernels->rows.gate(z, i * ld_z, x, i * ld_x, dtype, n, activation, y, i * ld_y); });
  return EK_OK;
}

extern "C" ek_status ek_rotate(const ek_isa* isa, const ek_rotary* shape, const void* x, ek_dtype dtype, const void* cos,
                               const void* sin, void* y, const ek_parallel* parallel) {
  const edgekern::Kernels* kernels = nullptr;
  if (shape == nullptr) return EK_ERROR_NULL_POINTER;
  const ek_rotary s = *shape;
  const int64_t smallest = s.batch < s.tokens ? s.batch : s.tokens;
  const ek_status status = open(isa, smallest < s.heads ? smallest : s.heads, s.n, dtype, &kernels);
  if (status != EK_OK) return status;
  if (s.n % 2 != 0) return EK_ERROR_SHAPE;
  const int64_t positions = s.batch * s.tokens;
  if (positions == 0 || s.heads == 0 || s.n == 0) return EK_OK;
  if (x == nullptr || cos == nullptr || sin == nullptr || y == nullptr) return EK_ERROR_NULL_POINTER;
  each_row(parallel, positions, s.heads * s.n, [&](int64_t i) {
    const int64_t b = i / s.tokens, t = i % s.tokens, at_table = b * s.table_batch + t * s.table_token;
    for (int64_t h = 0; h < s.heads; ++h)
      kernels->rows.rotate(x, b * s.x_batch + t * s.x_token + h * s.x_head, cos, sin, at_table, dtype, s.n, y,
                           b * s.y_batch + t * s.y_token + h * s.y_head);
  });
  return EK_OK;
}
