// Canonical int8 weights: from floats, into the packed layout, and back. Runs once a layer, at convert or load time.
#include <math.h>
#include <string.h>

#include <atomic>

#include "base/dtype.h"
#include "base/finite.h"
#include "base/huge_pages.h"
#include "base/parallel.h"
#include "formats/int8/layout.h"
#include "isa/kernels.h"

namespace edgekern::int8 {
namespace {

// One output channel to s8. False when it holds NaN or Inf.
bool quantize_row(const void* rhs, ek_dtype dtype, int64_t offset, int64_t k, int8_t* q, float* scale) {
  float largest = 0.0f, poison = 0.0f;
  for (int64_t i = 0; i < k; ++i) {
    float value = float_at(rhs, dtype, offset + i);
    float magnitude = fabsf(value);
    poison += value * 0.0f;  // NaN once any value is NaN or Inf
    largest = magnitude > largest ? magnitude : largest;
  }
  if (!(poison == 0.0f)) return false;
  float s = largest / 127.0f;
  constexpr float kSmallestNormal = 1.17549435e-38f;
  if (s < kSmallestNormal) {  // a zero row, or one too small for a float scale
    memset(q, 0, static_cast<size_t>(k));
    *scale = 1.0f;
    return true;
  }
  for (int64_t i = 0; i < k; ++i) q[i] = static_cast<int8_t>(lrintf(float_at(rhs, dtype, offset + i) / s));
  *scale = s;
  return true;
}

void copy_padded(const float* values, const Layout& layout, float* out) {
  memset(out, 0, static_cast<size_t>(layout.padded_n()) * sizeof(float));
  if (values != nullptr) memcpy(out, values, static_cast<size_t>(layout.n) * sizeof(float));
}

// A line of a panel is 4 or 8 values of k deep, a block 2 or 4.
bool valid_order(ek_int8_form form, Order order) {
  bool other_depth = order.line_depth == (in_panels(form) ? 8 : 2);
  return (order.line_depth == 4 || other_depth) && order.odd_sums >> 1 == 0;
}

// What the arguments of packing have in common.
ek_status check_pack(const ek_isa* isa, ek_int8_form form, int64_t n, int64_t k, Layout* layout) {
  if (functions_of(form) == nullptr) return EK_ERROR_FORM;
  if (!valid_shape(n, k)) return EK_ERROR_SHAPE;
  const edgekern::Kernels* kernels = nullptr;
  ek_status status = resolve_isa(isa, &kernels);
  if (status != EK_OK) return status;
  *layout = {n, k, form, in_panels(form) ? kernels->int8.order : kernels->int8_blocks.order};
  return EK_OK;
}

}  // namespace

const FormFunctions* functions_of(ek_int8_form form) {
  switch (form) {
    case EK_INT8_DENSE:
      return &kDenseForm;
    case EK_INT8_BLOCKS_1:
    case EK_INT8_BLOCKS_2:
    case EK_INT8_BLOCKS_4:
    case EK_INT8_BLOCKS_8:
    case EK_INT8_CSR:
      return &kBlocksForm;
    case EK_INT8_BITMAP:
    case EK_INT8_BITMAP_4:
      return &kBitmapForm;
  }
  return nullptr;
}

ek_status open_packed(const void* packed, size_t packed_size, Layout* layout) {
  if (packed == nullptr) return EK_ERROR_NULL_POINTER;
  if (reinterpret_cast<uintptr_t>(packed) % 64 != 0 || packed_size < sizeof(Header)) return EK_ERROR_PACKED;
  const Header* header = static_cast<const Header*>(packed);
  if (memcmp(header->magic, kMagic, sizeof(kMagic)) != 0) return EK_ERROR_PACKED;
  *layout = {header->n, header->k, header->form, header->order};
  const FormFunctions* form = functions_of(layout->form);
  if (form == nullptr || !valid_shape(layout->n, layout->k) || !valid_order(layout->form, layout->order))
    return EK_ERROR_PACKED;
  int64_t size = static_cast<int64_t>(packed_size), body = layout->body_offset();
  return size < body || size - body < form->packed_body_bytes(*layout, packed, packed_size) ? EK_ERROR_PACKED : EK_OK;
}

}  // namespace edgekern::int8

using namespace edgekern;
using namespace edgekern::int8;

extern "C" ek_status ek_int8_quantize_rhs(int64_t n, int64_t k, const void* rhs, ek_dtype dtype, int64_t ld_rhs, int8_t* q,
                                          int64_t ld_q, float* scale, const ek_parallel* parallel) {
  if (!valid_shape(n, k)) return EK_ERROR_SHAPE;
  if (!valid_dtype(dtype)) return EK_ERROR_DTYPE;
  if (n > 0 && (scale == nullptr || (k > 0 && (rhs == nullptr || q == nullptr)))) return EK_ERROR_NULL_POINTER;
  if (n > 1 && (ld_rhs < k || ld_q < k)) return EK_ERROR_STRIDE;
  std::atomic<bool> finite{true};
  parallel_for(parallel, n, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      if (!quantize_row(rhs, dtype, row * ld_rhs, k, q + row * ld_q, scale + row)) finite = false;
  });
  return finite ? EK_OK : EK_ERROR_VALUE;
}

extern "C" size_t ek_int8_packed_size(const ek_isa* isa, ek_int8_form form, int64_t n, int64_t k, const int8_t* q, int64_t ld_q,
                                      const ek_parallel* parallel) {
  Layout layout{};
  if (check_pack(isa, form, n, k, &layout) != EK_OK) return 0;
  if (form != EK_INT8_DENSE && n > 0 && k > 0 && (q == nullptr || (n > 1 && ld_q < k))) return 0;
  int64_t body = functions_of(form)->body_bytes(layout, q, ld_q, parallel);
  return body < 0 ? 0 : static_cast<size_t>(layout.body_offset() + body);
}

extern "C" ek_status ek_int8_pack(const ek_isa* isa, ek_int8_form form, int64_t n, int64_t k, const int8_t* q, int64_t ld_q,
                                  const float* scale, const float* bias, void* packed, size_t packed_size,
                                  const ek_parallel* parallel) {
  Layout layout{};
  ek_status status = check_pack(isa, form, n, k, &layout);
  if (status != EK_OK) return status;
  if (packed == nullptr || (n > 0 && (scale == nullptr || (k > 0 && q == nullptr)))) return EK_ERROR_NULL_POINTER;
  if (n > 1 && ld_q < k) return EK_ERROR_STRIDE;
  if (!all_finite(scale, n) || (bias != nullptr && !all_finite(bias, n))) return EK_ERROR_VALUE;
  int64_t body = functions_of(form)->body_bytes(layout, q, ld_q, parallel);
  if (body < 0) return EK_ERROR_FORM;
  if (reinterpret_cast<uintptr_t>(packed) % 64 != 0 || static_cast<int64_t>(packed_size) < layout.body_offset() + body)
    return EK_ERROR_PACKED;
  advise_huge_pages(packed, packed_size);
  Header header{};
  memcpy(header.magic, kMagic, sizeof(kMagic));
  header.n = n;
  header.k = k;
  header.form = form;
  header.order = layout.order;
  header.has_bias = bias != nullptr;
  memcpy(packed, &header, sizeof(header));
  copy_padded(scale, layout, at<float>(packed, layout.scale_offset()));
  copy_padded(bias, layout, at<float>(packed, layout.bias_offset()));
  functions_of(form)->pack(layout, q, ld_q, packed, parallel);
  return EK_OK;
}

extern "C" ek_status ek_int8_set_range(void* packed, size_t packed_size, const ek_int8_range* range) {
  Layout layout{};
  ek_status status = open_packed(packed, packed_size, &layout);
  if (status != EK_OK) return status;
  if (range != nullptr && !valid_range(*range)) return EK_ERROR_VALUE;
  Header* header = static_cast<Header*>(packed);
  header->has_range = range != nullptr;
  header->range = range == nullptr ? ek_int8_range{} : *range;
  return EK_OK;
}

extern "C" ek_status ek_int8_describe(const void* packed, size_t packed_size, ek_int8_shape* shape) {
  if (shape == nullptr) return EK_ERROR_NULL_POINTER;
  Layout layout{};
  ek_status status = open_packed(packed, packed_size, &layout);
  if (status != EK_OK) return status;
  const Header* header = static_cast<const Header*>(packed);
  *shape = {layout.n, layout.k, header->has_bias, layout.form, header->has_range, header->range};
  return EK_OK;
}

extern "C" ek_status ek_int8_unpack(const void* packed, size_t packed_size, int8_t* q, int64_t ld_q, float* scale, float* bias,
                                    const ek_parallel* parallel) {
  Layout layout{};
  ek_status status = open_packed(packed, packed_size, &layout);
  if (status != EK_OK) return status;
  if (layout.n > 0 && (scale == nullptr || (layout.k > 0 && q == nullptr))) return EK_ERROR_NULL_POINTER;
  if (layout.n > 1 && ld_q < layout.k) return EK_ERROR_STRIDE;
  size_t floats = static_cast<size_t>(layout.n) * sizeof(float);
  if (floats > 0) memcpy(scale, at<float>(packed, layout.scale_offset()), floats);
  if (floats > 0 && bias != nullptr) memcpy(bias, at<float>(packed, layout.bias_offset()), floats);
  functions_of(layout.form)->unpack(layout, packed, q, ld_q, parallel);
  return EK_OK;
}
