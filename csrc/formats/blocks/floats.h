// Kept blocks of floats, one k deep: what the packed matrices of f32 and f16 have in common.
//
//   byte 0              64
//   +-------------------+-------------+---------------+------------------------------------+
//   | Header (64 bytes) | bias f32    | scale f32     | work | starts | weights | places   |
//   |                   | [n_pad]     | [n_pad], f16's|                                    |
//   +-------------------+-------------+---------------+------------------------------------+
//
// The bytes are the same for every ISA. A format says by a struct Format
//
//   Weight                     what a weight is packed as
//   kMagic                     of its Header
//   kLimit                     what all weights' magnitudes have to lie below
//   kScaled, scale_of(largest) whether a channel's weights have a scale, and which, by the largest of them
//   layout_of(channels, n, k)  the layout
//   word_of(weight, scale)     a weight that is not zero, as a word (blocks/pack.h) that is not 0; the layout says how much of
//                              the word is stored
//   weight_of(word, scale)     the weight that was stored
//   open(packed, size, &layout)    EK_OK and the layout when `packed` is a whole, aligned matrix of this format. Cheap: it
//                              runs at every call.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "edgekern/edgekern.h"
#include "formats/blocks/layout.h"

namespace edgekern::floats {

struct Header {
  char magic[8];
  int64_t n, k;
  int32_t channels;  // R
  int32_t has_bias;
  char reserved[32];
};
static_assert(sizeof(Header) == 64);

inline constexpr int64_t kBiasOffset = sizeof(Header);
// Where scales stand, in a format that has them.
inline int64_t scale_offset(const blocks::Layout& layout) { return kBiasOffset + layout.padded_n() * 4; }

}  // namespace edgekern::floats
