// The packed int8 matrix: what one layer looks like in memory.
//
// This is the dense form; the others differ from body_offset on (blocks.h, bitmap.h).
//
//   byte 0              64                                                                   body_offset
//   +-------------------+-----------------+------------------+-------------+-------------+-------------------------+
//   | Header (64 bytes) | column_sum s32  | odd_sum s32      | scale f32   | bias f32    | panel 0 | panel 1 | ... |
//   |                   | [blocks][n_pad] | same, or nothing | [n_pad]     | [n_pad]     |                         |
//   +-------------------+-----------------+------------------+-------------+-------------+-------------------------+
//
// A panel holds 16 output channels for all of K. It is a run of lines, one for each 4 values of k: what one VNNI
// instruction eats, and four of ARM's dot-product instructions.
//
//   line j of panel p:   n = 16p        n = 16p+1              n = 16p+15
//                        +--+--+--+--+  +--+--+--+--+          +--+--+--+--+
//                        |k0|k1|k2|k3|  |k0|k1|k2|k3|   ...    |k0|k1|k2|k3|      k0 = 4j
//                        +--+--+--+--+  +--+--+--+--+          +--+--+--+--+
//
// ARM's matrix multiply wants 8 values of k side by side: there a line is 16 x 8 bytes, in the same picture. Each ISA says
// which Order it reads; the header remembers it, and a kernel refuses a matrix in another.
//
// N is padded to 16 and K to 8 with zeros, so no kernel has a tail along N or K while it multiplies; only the stores of
// the last panel are cut. Everything starts on a 64-byte boundary.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/at.h"
#include "base/math.h"
#include "edgekern/edgekern.h"
#include "formats/shape.h"

namespace edgekern::int8 {

inline constexpr int64_t kPanelColumns = 16;
inline constexpr int64_t kDepthUnit = 8;  // K is padded to this

// One int32 accumulator takes K up to 2^31 / (255 * 128) = 65,793 before it could overflow. Longer rows are summed in
// blocks of this depth: exact int32 inside a block, float across blocks.
inline constexpr int64_t kBlockDepth = EK_INT8_MAX_K_EXACT;

inline int64_t blocks_of(int64_t k) { return max_of(1, ceil_div(k, kBlockDepth)); }

// The block forms alone are not made of panels, but of kept blocks.
inline bool in_panels(ek_int8_form form) { return form == EK_INT8_DENSE || form == EK_INT8_BITMAP || form == EK_INT8_BITMAP_4; }

// How an ISA wants its matrix.
struct Order {
  int32_t line_depth;  // values of k side by side: 4, or 8 for matrix-multiply instructions; of a block, 4 or 2
  int32_t odd_sums;    // 1: keep the sums over odd lines too (isa/neon.cc owes them)

  bool operator==(const Order&) const = default;
};

// What a scale of activations may be: below, and above, 1 / scale and what is computed from it would leave the floats.
inline constexpr float kSmallestScale = 7.8886090522101181e-31f;  // 2^-100
inline constexpr float kLargestScale = 1.2676506002282294e30f;    // 2^100

inline bool valid_range(const ek_int8_range& range) {
  bool scale = range.scale >= kSmallestScale && range.scale <= kLargestScale;  // NaN is neither
  return scale && range.zero_point >= 0 && range.zero_point <= 255;
}

struct Header {
  char magic[8];  // kMagic
  int64_t n, k;
  ek_int8_form form;
  Order order;
  int32_t has_bias;
  int32_t has_range;
  ek_int8_range range;  // of the activations; zeros without has_range
  char reserved[12];
};
static_assert(sizeof(Header) == 64);
inline constexpr char kMagic[8] = {'E', 'K', 'I', '8', 'C', '1', '6', '3'};  // int8, 16 columns, version 3

struct Layout {
  int64_t n, k;
  ek_int8_form form;
  Order order;

  int64_t panels() const { return ceil_div(n, kPanelColumns); }
  int64_t padded_k() const { return round_up(k, kDepthUnit); }
  int64_t padded_n() const { return panels() * kPanelColumns; }
  int64_t blocks() const { return blocks_of(k); }
  int64_t panel_bytes() const { return padded_k() * kPanelColumns; }

  // What all forms begin with.
  int64_t column_sum_offset() const { return sizeof(Header); }
  int64_t sums_bytes() const { return (in_panels(form) ? blocks() : 1) * padded_n() * 4; }
  int64_t odd_sum_offset() const { return column_sum_offset() + sums_bytes(); }
  int64_t scale_offset() const { return odd_sum_offset() + order.odd_sums * sums_bytes(); }
  int64_t bias_offset() const { return scale_offset() + padded_n() * 4; }
  int64_t body_offset() const { return bias_offset() + padded_n() * 4; }
};

// What a form does beyond the beginning that all share.
struct FormFunctions {
  // Negative for a matrix that the form cannot hold.
  int64_t (*body_bytes)(const Layout& layout, const int8_t* q, int64_t ld_q, const ek_parallel* parallel);
  // The same for a matrix that is packed; what it returns may be nonsense when packed_size is too small to tell.
  int64_t (*packed_body_bytes)(const Layout& layout, const void* packed, size_t packed_size);
  void (*pack)(const Layout& layout, const int8_t* q, int64_t ld_q, void* packed, const ek_parallel* parallel);
  void (*unpack)(const Layout& layout, const void* packed, int8_t* q, int64_t ld_q, const ek_parallel* parallel);
};
extern const FormFunctions kDenseForm, kBlocksForm, kBitmapForm;
const FormFunctions* functions_of(ek_int8_form form);  // nullptr for an unknown form

// EK_OK and the layout when `packed` is a whole, aligned matrix of this format. Cheap: it runs at every call.
ek_status open_packed(const void* packed, size_t packed_size, Layout* layout);

// The range of its activations, or nullptr where each row has its own.
inline const ek_int8_range* range_of(const void* packed) {
  const Header* header = static_cast<const Header*>(packed);
  return header->has_range ? &header->range : nullptr;
}

}  // namespace edgekern::int8
