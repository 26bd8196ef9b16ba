// The packed int4 matrix: what one layer looks like in memory.
//
//   byte 0              64
//   +-------------------+----------------+----------+------------------------+-----------------------+------+
//   | Header (64 bytes) | weight_sum f32 | bias f32 | scale f16              | zero u8, or nothing   | body |
//   |                   | [n_pad]        | [n_pad]  | [panels][groups][16]   | [panels][groups][16]  |      |
//   +-------------------+----------------+----------+------------------------+-----------------------+------+
//
// weight_sum[n] is the sum of all weights of channel n, as floats: what the activations' zero point has to be multiplied by.
//
// The body of the dense form is panels of 16 output channels. A panel is a run of lines of 64 bytes, one for each 8 values of
// k. A line is the 128 bytes that int8's dense form has there (formats/int8/layout.h), two to a byte: the first 64 are its low
// nibbles, the other 64 its high ones. So one load brings two lines of 4 k, or one of 8, and unpacking is a shift and masks.
//
//   int8:   a0 a1 a2 .. a63 | b0 b1 b2 .. b63          line:   b0:a0 | b1:a1 | .. | b63:a63        high:low
//
// A nibble is w, from 0 to 15. N is padded to 16 and K to 8 with zeros.
//
// In the bitmap form a nibble is w - zero, modulo 16: zero for a weight that is zero, and those are left out. Its body is a bitmap (formats/bitmap.h): a bit for each nibble of a line, the low
// ones' 64 first, bit i of 128 for byte i of int8's line; and what is kept of a panel. Low and high nibbles are kept apart, so
// that each is expanded as bytes are: byte i of a panel's holds the i-th low nibble that is kept of all its lines, and the
// i-th high one.
//
//   line         0:3 | 5:0 | 0:0 | 7:2 | ..     high:low
//   masks        low 0b1001.., high 0b1010..    (from the low bit on)
//   values       5:3 | 7:2 | ..
//
// EK_INT4_BITMAP_2 has a bit for each byte of a line, and keeps bytes of which a nibble is not zero, as they are.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/at.h"
#include "base/math.h"
#include "edgekern/edgekern.h"
#include "formats/bitmap.h"
#include "formats/int8/layout.h"
#include "formats/shape.h"

namespace edgekern::int4 {

inline constexpr int64_t kPanelColumns = int8::kPanelColumns, kDepthUnit = int8::kDepthUnit;
inline constexpr int64_t kLineBytes = kPanelColumns * kDepthUnit / 2;
inline constexpr int kSymmetricZero = 8;

struct Header {
  char magic[8];  // kMagic
  int64_t n, k;
  ek_int4_form form;
  int32_t group_size;
  int32_t line_depth;
  int32_t has_bias, has_zero;
  char reserved[20];
};
static_assert(sizeof(Header) == 64);
inline constexpr char kMagic[8] = {'E', 'K', 'I', '4', 'C', '1', '6', '2'};  // int4, 16 columns, version 2

struct Layout {
  int64_t n, k;
  ek_int4_form form;
  int64_t group_size;
  int32_t line_depth;  // values of k side by side in int8's order: 4 or 8
  bool has_zero;

  int64_t panels() const { return ceil_div(n, kPanelColumns); }
  int64_t padded_k() const { return round_up(k, kDepthUnit); }
  int64_t padded_n() const { return panels() * kPanelColumns; }
  int64_t groups() const { return ceil_div(k, group_size); }
  int64_t lines() const { return padded_k() / kDepthUnit; }
  int64_t panel_bytes() const { return lines() * kLineBytes; }

  int64_t weight_sum_offset() const { return sizeof(Header); }
  int64_t bias_offset() const { return weight_sum_offset() + padded_n() * 4; }
  int64_t scale_offset() const { return bias_offset() + padded_n() * 4; }
  int64_t zero_offset() const { return scale_offset() + groups() * padded_n() * 2; }
  int64_t body_offset() const { return round_up(zero_offset() + (has_zero ? groups() * padded_n() : 0), 64); }
  int64_t line_mask_bytes() const { return (form == EK_INT4_BITMAP ? 2 : 1) * kLineBytes / 8; }
  BitmapParts bitmap() const { return {body_offset(), panels(), lines() * line_mask_bytes()}; }
};

inline bool valid_form(ek_int4_form form) {
  return form == EK_INT4_DENSE || form == EK_INT4_BITMAP || form == EK_INT4_BITMAP_2;
}
inline constexpr int64_t kSmallestGroup = 32;
inline bool valid_group_size(int64_t size) { return size == kSmallestGroup || size == 64 || size == 128; }

// EK_OK and the layout when `packed` is a whole, aligned matrix of this format. Cheap: it runs at every call.
ek_status open_packed(const void* packed, size_t packed_size, Layout* layout);

}  // namespace edgekern::int4
