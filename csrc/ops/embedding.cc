// Rows of a packed int8 or int4 matrix as floats: validate, then each thread some of the rows.
#include "base/at.h"
#include "base/dtype.h"
#include "base/parallel.h"
#include "formats/int4/layout.h"
#include "formats/int8/layout.h"
#include "isa/kernels.h"

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

// *work is false when there is nothing to do.
ek_status check(const Call& call, int64_t n, int64_t k, bool* work) {
  *work = false;
  if (call.indices.type != EK_INDEX_I32 && call.indices.type != EK_INDEX_I64) return EK_ERROR_INDEX;
  if (call.count < 0) return EK_ERROR_SHAPE;
  if (call.count == 0) return EK_OK;
  if (call.indices.data == nullptr || (call.y == nullptr && k > 0)) return EK_ERROR_NULL_POINTER;
  if (call.count > 1 && call.ld_y < k) return EK_ERROR_STRIDE;
  for (int64_t i = 0; i < call.count; ++i)
    if (call.indices[i] < 0 || call.indices[i] >= n) return EK_ERROR_INDEX;
  *work = k > 0;
  return EK_OK;
}

template <class Kernels, class Rhs>
void read_rows(const Kernels& kernels, const Rhs& rhs, int64_t k, const Call& call) {
  const ek_parallel* parallel = call.count * k < kSerialWeights ? nullptr : call.parallel;
  parallel_for(parallel, call.count, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) kernels.read_row(rhs, call.indices[i], k, call.y, call.dtype, i * call.ld_y);
  });
}

}  // namespace
}  // namespace edgekern::embedding

using namespace edgekern;

extern "C" ek_status ek_int8_embedding(const ek_isa* isa, const void* packed, size_t packed_size, int64_t count,
                                       const void* indices, ek_index index, void* y, ek_dtype dtype, int64_t ld_y,
                                       const ek_parallel* parallel) {
  if (!valid_dtype(dtype)) return EK_ERROR_DTYPE;
  int8::Layout layout{};
  ek_status status = int8::open_packed(packed, packed_size, &layout);
  if (status != EK_OK) return status;
  const edgekern::Kernels* kernels = nullptr;
  status = resolve_isa(isa, &kernels);
  if (status != EK_OK) return status;
  if (layout.form != EK_INT8_DENSE) return EK_ERROR_FORM;
  if (!(layout.order == kernels->int8.order)) return EK_ERROR_ORDER;
  embedding::Call call{count, {indices, index}, y, dtype, ld_y, parallel};
  bool work = false;
  status = embedding::check(call, layout.n, layout.k, &work);
  if (status != EK_OK || !work) return status;
  int8::RhsPanels rhs{};
  rhs.padded_k = layout.padded_k();
  rhs.panels = at<int8_t>(packed, layout.body_offset());
  rhs.scale = at<float>(packed, layout.scale_offset());
  embedding::read_rows(kernels->int8, rhs, layout.k, call);
  return EK_OK;
}

extern "C" ek_status ek_int4_embedding(const ek_isa* isa, const void* packed, size_t packed_size, int64_t count,
                                       const void* indices, ek_index index, void* y, ek_dtype dtype, int64_t ld_y,
                                       const ek_parallel* parallel) {
  if (!valid_dtype(dtype)) return EK_ERROR_DTYPE;
  int4::Layout layout{};
  ek_status status = int4::open_packed(packed, packed_size, &layout);
  if (status != EK_OK) return status;
  const edgekern::Kernels* kernels = nullptr;
  status = resolve_isa(isa, &kernels);
  if (status != EK_OK) return status;
  if (layout.form != EK_INT4_DENSE) return EK_ERROR_FORM;
  if (layout.line_depth != kernels->int4.line_depth) return EK_ERROR_ORDER;
  embedding::Call call{count, {indices, index}, y, dtype, ld_y, parallel};
  bool work = false;
  status = embedding::check(call, layout.n, layout.k, &work);
  if (status != EK_OK || !work) return status;
  int4::RhsPanels rhs{};
  rhs.padded_k = layout.padded_k();
  rhs.group_size = layout.group_size;
  rhs.groups = layout.groups();
  rhs.scale = at<uint16_t>(packed, layout.scale_offset());
  rhs.zero = layout.has_zero ? at<uint8_t>(packed, layout.zero_offset()) : nullptr;
  rhs.lines = at<uint8_t>(packed, layout.body_offset());
  embedding::read_rows(kernels->int4, rhs, layout.k, call);
  return EK_OK;
}
