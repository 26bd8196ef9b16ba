// Packed matrices as plain numbers and pointers: what their dense forms are, and such a matrix opened.
#pragma once

#include "base/at.h"
#include "formats/int4/layout.h"
#include "formats/int8/layout.h"
#include "isa/kernels.h"

namespace edgekern {

namespace int8 {
// Of the dense form; the others begin alike.
inline RhsPanels dense_panels(const Layout& layout, const void* packed) {
  return {.n = layout.n,
          .padded_n = layout.padded_n(),
          .padded_k = layout.padded_k(),
          .blocks = layout.blocks(),
          .panels = at<int8_t>(packed, layout.body_offset()),
          .masks = nullptr,
          .starts = nullptr,
          .column_sum = at<int32_t>(packed, layout.column_sum_offset()),
          .odd_sum = at<int32_t>(packed, layout.odd_sum_offset()),
          .scale = at<float>(packed, layout.scale_offset()),
          .bias = at<float>(packed, layout.bias_offset())};
}
}  // namespace int8

namespace int4 {
// Of the dense form; the others begin alike.
inline RhsPanels dense_panels(const Layout& layout, const void* packed) {
  return {.n = layout.n,
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
}
}  // namespace int4

// A packed matrix that is whole, dense, and in the order of an ISA.
template <class Rhs>
struct DenseRhs {
  Rhs rhs;
  int64_t k;
  const Kernels* kernels;
};

inline ek_status open_dense(const ek_isa* isa, const void* packed, size_t packed_size, DenseRhs<int8::RhsPanels>* out) {
  int8::Layout layout{};
  ek_status status = int8::open_packed(packed, packed_size, &layout);
  if (status != EK_OK) return status;
  status = resolve_isa(isa, &out->kernels);
  if (status != EK_OK) return status;
  if (layout.form != EK_INT8_DENSE) return EK_ERROR_FORM;
  if (!(layout.order == out->kernels->int8.order)) return EK_ERROR_ORDER;
  out->k = layout.k;
  out->rhs = int8::dense_panels(layout, packed);
  return EK_OK;
}

inline ek_status open_dense(const ek_isa* isa, const void* packed, size_t packed_size, DenseRhs<int4::RhsPanels>* out) {
  int4::Layout layout{};
  ek_status status = int4::open_packed(packed, packed_size, &layout);
  if (status != EK_OK) return status;
  status = resolve_isa(isa, &out->kernels);
  if (status != EK_OK) return status;
  if (layout.form != EK_INT4_DENSE) return EK_ERROR_FORM;
  if (layout.line_depth != out->kernels->int4.line_depth) return EK_ERROR_ORDER;
  out->k = layout.k;
  out->rhs = int4::dense_panels(layout, packed);
  return EK_OK;
}

}  // namespace edgekern
