// The bitmap forms: the dense form's panels and lines, each line without its zeros, and beside them a bit that says where
// they were. What a kernel expands is a dense line again, so all else is the dense form's.
//
//   body_offset
//   +------------------+------------------------+---------------------------------------+------------------+
//   | starts u64       | masks of panel 0 | ... | kept values of panel 0 | panel 1 | .. | kMaxLoad nothing |
//   | [panels + 1]     |                        | in bytes starts[0]     | [1]     |    |                  |
//   +------------------+------------------------+---------------------------------------+------------------+
//
// A bit stands for a unit: one weight (EK_INT8_BITMAP), or 4 values of k of one channel (EK_INT8_BITMAP_4), of which all are
// kept when one is not zero. Bit i of a line is its unit number i, from the low bit of the first byte on:
//
//   line           a b 0 0 | 0 c 0 0 | 0 0 0 0 | 0 0 d e | ...
//   one a weight   0x23 0xc0 ...      values: a b c d e ...
//   one a four     0xb ...            values: a b 0 0 0 c 0 0 0 0 d e ...
//
// Masks have a place of their own because their addresses are then known before what they say: only the values' addresses
// hang on one another.
#pragma once

#include "formats/int8/layout.h"

namespace edgekern::int8 {

struct BitmapLayout {
  Layout layout;

  // Kernels load whole vectors: so many bytes may be read from where the values end.
  static constexpr int64_t kMaxLoad = 64;

  int64_t unit() const { return layout.form == EK_INT8_BITMAP_4 ? 4 : 1; }
  int64_t line_bytes() const { return layout.order.line_depth * kPanelColumns; }
  int64_t lines() const { return layout.padded_k() / layout.order.line_depth; }
  int64_t line_mask_bytes() const { return line_bytes() / unit() / 8; }
  int64_t panel_mask_bytes() const { return lines() * line_mask_bytes(); }

  int64_t starts_offset() const { return layout.body_offset(); }
  int64_t masks_offset() const { return round_up(starts_offset() + (layout.panels() + 1) * 8, 64); }
  int64_t values_offset() const { return round_up(masks_offset() + layout.panels() * panel_mask_bytes(), 64); }
  int64_t body_bytes(int64_t kept) const { return round_up(values_offset() + kept + kMaxLoad, 64) - layout.body_offset(); }
};

}  // namespace edgekern::int8
