// What multiplies by a packed int4 matrix, and the matrix as plain numbers and pointers.
#pragma once

#include "ops/dense_rhs.h"

namespace edgekern::int4 {

using Gemm = decltype(Kernels::gemm);

inline Gemm gemm_of(const Kernels& kernels, ek_int4_form form) {
  return form == EK_INT4_DENSE ? kernels.gemm : form == EK_INT4_BITMAP ? kernels.gemm_bitmap : kernels.gemm_bitmap_2;
}

inline RhsPanels panels_of(const void* packed, const Layout& layout) {
  RhsPanels rhs = dense_panels(layout, packed);
  if (layout.form == EK_INT4_DENSE) return rhs;
  BitmapParts parts = layout.bitmap();
  rhs.lines = at<uint8_t>(packed, parts.values_offset());
  rhs.masks = at<uint8_t>(packed, parts.masks_offset());
  rhs.starts = at<uint64_t>(packed, parts.begin);
  return rhs;
}

}  // namespace edgekern::int4
