// Canonical int8 weights: from floats, into the packed layout, and back. Runs once a layer, at convert or load time.
#include <math.h>
#include <string.h>

#include <atomic>

#include "base/half.h"
#include "base/huge_pages.h"
#include "base/parallel.h"
#include "formats/int8/layout.h"
#include "isa/kernels.h"

namespace edgekern::int8 {
namespace {

template <class T>
T* at(void* packed, int64_t offset) {
  return reinterpret_cast<T*>(static_cast<char*>(packed) + offset);
}
template <class T>
const T* at(const void* packed, int64_t offset) {
  return reinterpret_cast<const T*>(static_cast<const char*>(packed) + offset);
}

float load(const void* data, ek_dtype dtype, int64_t i) {
  if (dtype == EK_F32) return static_cast<const float*>(data)[i];
  uint16_t h = static_cast<const uint16_t*>(data)[i];
  return dtype == EK_F16 ? f16_to_f32(h) : bf16_to_f32(h);
}

// One output channel to s8. False when it holds NaN or Inf.
bool quantize_row(const void* rhs, ek_dtype dtype, int64_t offset, int64_t k, int8_t* q, float* scale) {
  float largest = 0.0f, poison = 0.0f;
  for (int64_t i = 0; i < k; ++i) {
    float value = load(rhs, dtype, offset + i);
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
  for (int64_t i = 0; i < k; ++i) q[i] = static_cast<int8_t>(lrintf(load(rhs, dtype, offset + i) / s));
  *scale = s;
  return true;
}

// Sums of the panel's columns over each block of K, of every `stride`-th line from `first`.
template <int64_t kDepth>
void sum_columns(const Layout& layout, const int8_t* panel, int64_t first, int64_t stride, int32_t* column_sum) {
  constexpr int64_t kLineBytes = kDepth * kPanelColumns;
  for (int64_t block = 0; block < layout.blocks(); ++block, column_sum += layout.padded_n()) {
    int32_t sum[kPanelColumns] = {};
    int64_t end = min_of(layout.padded_k(), (block + 1) * kBlockDepth) / kDepth;
    for (int64_t line = block * kBlockDepth / kDepth + first; line < end; line += stride)
      for (int64_t i = 0; i < kLineBytes; ++i) sum[i / kDepth] += panel[line * kLineBytes + i];
    memcpy(column_sum, sum, sizeof(sum));
  }
}

template <int64_t kDepth>
void pack_panel(const Layout& layout, const int8_t* q, int64_t ld_q, int64_t n0, int8_t* panel) {
  constexpr int64_t kLineBytes = kDepth * kPanelColumns;
  const int64_t lines = layout.padded_k() / kDepth, whole = layout.k / kDepth;
  for (int64_t column = 0; column < kPanelColumns; ++column) {
    int8_t* out = panel + column * kDepth;
    bool padding = n0 + column >= layout.n;
    const int8_t* row = padding ? nullptr : q + (n0 + column) * ld_q;
    for (int64_t line = 0; line < lines; ++line, out += kLineBytes) {
      int64_t used = padding ? 0 : line < whole ? kDepth : max_of(0, layout.k - line * kDepth);
      if (used == kDepth) {
        memcpy(out, row + line * kDepth, kDepth);
      } else {
        memset(out, 0, kDepth);
        if (used > 0) memcpy(out, row + line * kDepth, static_cast<size_t>(used));
      }
    }
  }
}

template <int64_t kDepth>
void pack_panels(const Layout& layout, const int8_t* q, int64_t ld_q, void* packed, int64_t begin, int64_t end) {
  for (int64_t p = begin; p < end; ++p) {
    int8_t* panel = at<int8_t>(packed, layout.panels_offset() + p * layout.panel_bytes());
    pack_panel<kDepth>(layout, q, ld_q, p * kPanelColumns, panel);
    sum_columns<kDepth>(layout, panel, 0, 1, at<int32_t>(packed, layout.column_sum_offset()) + p * kPanelColumns);
    if (layout.order.odd_sums)
      sum_columns<kDepth>(layout, panel, 1, 2, at<int32_t>(packed, layout.odd_sum_offset()) + p * kPanelColumns);
  }
}

template <int64_t kDepth>
void unpack_row(const Layout& layout, const int8_t* panel, int64_t column, int8_t* row) {
  constexpr int64_t kLineBytes = kDepth * kPanelColumns;
  for (int64_t k = 0; k < layout.k; ++k) row[k] = panel[k / kDepth * kLineBytes + column * kDepth + k % kDepth];
}

bool all_finite(const float* values, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    if (!isfinite(values[i])) return false;
  return true;
}

void copy_padded(const float* values, const Layout& layout, float* out) {
  memset(out, 0, static_cast<size_t>(layout.padded_n()) * sizeof(float));
  if (values != nullptr) memcpy(out, values, static_cast<size_t>(layout.n) * sizeof(float));
}

bool valid_order(Order order) { return (order.line_depth == 4 || order.line_depth == 8) && order.odd_sums >> 1 == 0; }

}  // namespace

ek_status open_packed(const void* packed, size_t packed_size, Layout* layout) {
  if (packed == nullptr) return EK_ERROR_NULL_POINTER;
  if (reinterpret_cast<uintptr_t>(packed) % 64 != 0 || packed_size < sizeof(Header)) return EK_ERROR_PACKED;
  const Header* header = static_cast<const Header*>(packed);
  if (memcmp(header->magic, kMagic, sizeof(kMagic)) != 0) return EK_ERROR_PACKED;
  *layout = {header->n, header->k, header->order};
  if (!valid_shape(layout->n, layout->k) || !valid_order(layout->order) || packed_size < static_cast<size_t>(layout->bytes()))
    return EK_ERROR_PACKED;
  return EK_OK;
}

}  // namespace edgekern::int8

using namespace edgekern;
using namespace edgekern::int8;

extern "C" ek_status ek_int8_quantize_rhs(int64_t n, int64_t k, const void* rhs, ek_dtype dtype, int64_t ld_rhs, int8_t* q,
                                          int64_t ld_q, float* scale, const ek_parallel* parallel) {
  if (!valid_shape(n, k)) return EK_ERROR_SHAPE;
  if (dtype != EK_F32 && dtype != EK_F16 && dtype != EK_BF16) return EK_ERROR_DTYPE;
  if (n > 0 && (scale == nullptr || (k > 0 && (rhs == nullptr || q == nullptr)))) return EK_ERROR_NULL_POINTER;
  if (n > 1 && (ld_rhs < k || ld_q < k)) return EK_ERROR_STRIDE;
  std::atomic<bool> finite{true};
  parallel_for(parallel, n, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      if (!quantize_row(rhs, dtype, row * ld_rhs, k, q + row * ld_q, scale + row)) finite = false;
  });
  return finite ? EK_OK : EK_ERROR_VALUE;
}

extern "C" size_t ek_int8_packed_size(const ek_isa* isa, int64_t n, int64_t k) {
  const edgekern::Kernels* kernels = nullptr;
  if (!valid_shape(n, k) || resolve_isa(isa, &kernels) != EK_OK) return 0;
  return static_cast<size_t>(Layout{n, k, kernels->int8.order}.bytes());
}

extern "C" ek_status ek_int8_pack(const ek_isa* isa, int64_t n, int64_t k, const int8_t* q, int64_t ld_q, const float* scale,
                                  const float* bias, void* packed, const ek_parallel* parallel) {
  if (!valid_shape(n, k)) return EK_ERROR_SHAPE;
  const edgekern::Kernels* kernels = nullptr;
  ek_status status = resolve_isa(isa, &kernels);
  if (status != EK_OK) return status;
  if (packed == nullptr || (n > 0 && (scale == nullptr || (k > 0 && q == nullptr)))) return EK_ERROR_NULL_POINTER;
  if (n > 1 && ld_q < k) return EK_ERROR_STRIDE;
  if (reinterpret_cast<uintptr_t>(packed) % 64 != 0) return EK_ERROR_PACKED;
  if (!all_finite(scale, n) || (bias != nullptr && !all_finite(bias, n))) return EK_ERROR_VALUE;
  Layout layout{n, k, kernels->int8.order};
  advise_huge_pages(packed, static_cast<size_t>(layout.bytes()));
  Header header{};
  memcpy(header.magic, kMagic, sizeof(kMagic));
  header.n = n;
  header.k = k;
  header.order = layout.order;
  header.has_bias = bias != nullptr;
  memcpy(packed, &header, sizeof(header));
  copy_padded(scale, layout, at<float>(packed, layout.scale_offset()));
  copy_padded(bias, layout, at<float>(packed, layout.bias_offset()));
  auto pack = layout.order.line_depth == 4 ? pack_panels<4> : pack_panels<8>;
  parallel_for(parallel, layout.panels(), [&](int64_t begin, int64_t end) { pack(layout, q, ld_q, packed, begin, end); });
  return EK_OK;
}

extern "C" ek_status ek_int8_describe(const void* packed, size_t packed_size, ek_int8_shape* shape) {
  if (shape == nullptr) return EK_ERROR_NULL_POINTER;
  Layout layout{};
  ek_status status = open_packed(packed, packed_size, &layout);
  if (status != EK_OK) return status;
  *shape = {layout.n, layout.k, static_cast<const Header*>(packed)->has_bias};
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
  auto unpack = layout.order.line_depth == 4 ? unpack_row<4> : unpack_row<8>;
  parallel_for(parallel, layout.n, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int8_t* panel = at<int8_t>(packed, layout.panels_offset() + row / kPanelColumns * layout.panel_bytes());
      unpack(layout, panel, row % kPanelColumns, q + row * ld_q);
    }
  });
  return EK_OK;
}
