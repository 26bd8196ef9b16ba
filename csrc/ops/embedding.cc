// Rows of a packed int8 or int4 matrix as floats: validate, then each thread some of the rows.
#include "base/dtype.h"
#include "base/parallel.h"
#include "ops/dense_rhs.h"

namespace edgekern::embedding {
namespace {

constexpr int64_t kSerialWeights = 64 * 1024;  // below this many a second thread costs more than it brings

struct Indices {
  const void* data;
  ek_index type;

  int64_t operator[](int64_t i) const {
    return type == EK_INDEX_I32 ? static_cast<const int32_t*>(data)[i] : static_cast<const int64_t*>(data)[i];
  }
};

// What is asked for, and where it goes.
struct Call {
  int64_t count;
  Indices indices;
  void* y;
  ek_dtype dtype;
  int64_t ld_y;
  const ek_parallel* parallel;
};

ek_status check(const Call& call, int64_t n, int64_t k) {
  if (call.indices.type != EK_INDEX_I32 && call.indices.type != EK_INDEX_I64) return EK_ERROR_INDEX;
  if (call.count < 0) return EK_ERROR_SHAPE;
  if (call.count == 0) return EK_OK;
  if (call.indices.data == nullptr || (call.y == nullptr && k > 0)) return EK_ERROR_NULL_POINTER;
  if (call.count > 1 && call.ld_y < k) return EK_ERROR_STRIDE;
  for (int64_t i = 0; i < call.count; ++i)
    if (call.indices[i] < 0 || call.indices[i] >= n) return EK_ERROR_INDEX;
  return EK_OK;
}

template <class Rhs, class FormatKernels>
ek_status read_rows(const ek_isa* isa, const void* packed, size_t packed_size, FormatKernels Kernels::*format,
                    const Call& call) {
  if (!valid_dtype(call.dtype)) return EK_ERROR_DTYPE;
  DenseRhs<Rhs> matrix{};
  ek_status status = open_dense(isa, packed, packed_size, &matrix);
  if (status != EK_OK) return status;
  const int64_t k = matrix.k;
  status = check(call, matrix.rhs.n, k);
  if (status != EK_OK) return status;
  const FormatKernels& kernels = matrix.kernels->*format;
  parallel_for(call.count * k < kSerialWeights ? nullptr : call.parallel, call.count, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) kernels.read_row(matrix.rhs, call.indices[i], k, call.y, call.dtype, i * call.ld_y);
  });
  return EK_OK;
}

}  // namespace
}  // namespace edgekern::embedding

using namespace edgekern;

extern "C" ek_status ek_int8_embedding(const ek_isa* isa, const void* packed, size_t packed_size, int64_t count,
                                       const void* indices, ek_index index, void* y, ek_dtype dtype, int64_t ld_y,
                                       const ek_parallel* parallel) {
  return embedding::read_rows<int8::RhsPanels>(isa, packed, packed_size, &Kernels::int8,
                                               {count, {indices, index}, y, dtype, ld_y, parallel});
}

extern "C" ek_status ek_int4_embedding(const ek_isa* isa, const void* packed, size_t packed_size, int64_t count,
                                       const void* indices, ek_index index, void* y, ek_dtype dtype, int64_t ld_y,
                                       const ek_parallel* parallel) {
  return embedding::read_rows<int4::RhsPanels>(isa, packed, packed_size, &Kernels::int4,
                                               {count, {indices, index}, y, dtype, ld_y, parallel});
}
