// The packed f32 matrix of kept blocks: R neighbouring output channels x one k (formats/blocks/layout.h has the rest).
//
//   byte 0              64
//   +-------------------+-------------+------------------------------------+
//   | Header (64 bytes) | bias f32    | work | starts | weights | places   |
//   |                   | [n_pad]     |                                    |
//   +-------------------+-------------+------------------------------------+
//
// The bytes are the same for every ISA.
#pragma once

#include <stddef.h>

#include "edgekern/edgekern.h"
#include "formats/blocks/layout.h"

namespace edgekern::f32 {

struct Header {
  char magic[8];  // kMagic
  int64_t n, k;
  int32_t channels;  // R
  int32_t has_bias;
  char reserved[32];
};
static_assert(sizeof(Header) == 64);
inline constexpr char kMagic[8] = {'E', 'K', 'F', '3', '2', 'B', '0', '1'};  // f32, blocks, version 1

inline constexpr int64_t kBiasOffset = sizeof(Header);

// padded_n does not depend on begin, which stands after the bias.
inline blocks::Layout layout_of(int64_t channels, int64_t n, int64_t k) {
  blocks::Layout layout{n, k, channels, 1, kBiasOffset};
  layout.begin += layout.padded_n() * 4;
  return layout;
}

// EK_OK and the layout when `packed` is a whole, aligned matrix of this format. Cheap: it runs at every call.
ek_status open_packed(const void* packed, size_t packed_size, blocks::Layout* layout);

}  // namespace edgekern::f32
