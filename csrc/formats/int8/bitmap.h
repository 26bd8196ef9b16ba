// The bitmap forms: the dense form's panels and lines, each line without its zeros, and beside them a bit that says where
// they were. What a kernel expands is a dense line again, so all else is the dense form's.
//
// From body_offset on it is laid out as formats/bitmap.h shows.
//
// A bit stands for a unit: one weight (EK_INT8_BITMAP), or 4 values of k of one channel (EK_INT8_BITMAP_4), of which all are
// kept when one is not zero. Bit i of a line is its unit number i, from the low bit of the first byte on:
//
//   line           a b 0 0 | 0 c 0 0 | 0 0 0 0 | 0 0 d e | ...
//   one a weight   0x23 0xc0 ...      values: a b c d e ...
//   one a four     0xb ...            values: a b 0 0 0 c 0 0 0 0 d e ...
#pragma once

#include "formats/bitmap.h"
#include "formats/int8/layout.h"

namespace edgekern::int8 {

struct BitmapLayout {
  Layout layout;

  int64_t unit() const { return layout.form == EK_INT8_BITMAP_4 ? 4 : 1; }
  int64_t line_bytes() const { return layout.order.line_depth * kPanelColumns; }
  int64_t lines() const { return layout.padded_k() / layout.order.line_depth; }
  int64_t line_mask_bytes() const { return line_bytes() / unit() / 8; }
  int64_t panel_mask_bytes() const { return lines() * line_mask_bytes(); }

  BitmapParts parts() const { return {layout.body_offset(), layout.panels(), panel_mask_bytes()}; }
};

}  // namespace edgekern::int8
