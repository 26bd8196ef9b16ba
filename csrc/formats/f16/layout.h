// The packed f16 matrix of kept blocks (formats/blocks/floats.h has the picture): each weight is an f16 times its output
// channel's scale, a power of two that brings the largest weight of the channel, once rounded, to 1 or more, and below 2: so what
// was rounded packs as it is, bit for bit.
//
// Sums of f16 in f16 must neither overflow nor be long, since each addition rounds to 11 bits. So where halves are multiplied no
// more than 64 blocks are summed before they go to sums of f32 (measured: README.md), and a row of activations is divided by a
// power of two that brings its largest to 128 or more, and below 256. A sum of i products is then at most i * 2 * 256, which is
// an f16 as it stands, so that rounding cannot carry it further: 64 * 512 = 32768, and f16 ends at 65504.
#pragma once

#include "base/half.h"
#include "formats/blocks/floats.h"

namespace edgekern::f16 {

inline constexpr int64_t kMostBlocks = 64;
inline constexpr float kLhsHeadroom = 128;
static_assert(kMostBlocks * 2 * 2 * static_cast<int64_t>(kLhsHeadroom) <= 65504);

namespace {

// The largest power of two that is not above `largest`; 1 for zeros, and where the inverse would be out of range.
[[maybe_unused]] float power_of_two(float largest) {
  constexpr float kSmallest = 7.8886090522101181e-31f;  // 2^-100
  return largest >= kSmallest ? bits_to_f32(f32_to_bits(largest) & 0x7f800000u) : 1.0f;
}

}  // namespace

struct Format {
  using Weight = uint16_t;
  static constexpr char kMagic[] = "EKF16B01";  // f16, blocks, version 1
  static constexpr bool kScaled = true;

  static blocks::Layout layout_of(int64_t channels, int64_t n, int64_t k) {
    blocks::Layout layout{n, k, channels, 1, 0, /*scattered=*/false, /*word_bytes=*/2};
    layout.begin = floats::scale_offset(layout) + layout.padded_n() * 4;
    return layout;
  }
  static constexpr float kLimit = 0x1.ffep127f;  // weights lie below: from here on they round to what f32 does not hold
  static float scale_of(float largest) {
    constexpr uint32_t kHalfStep = 1u << 12;  // of f16, whose mantissa has 13 bits less
    return power_of_two(bits_to_f32(f32_to_bits(largest) + kHalfStep));
  }
  // A weight so small that its f16 is zero is kept nevertheless: a bit above the two bytes that are stored says so.
  static int32_t word_of(float weight, float scale) {
    return 0x10000 | f32_to_f16(static_cast<float>(static_cast<double>(weight) / scale));
  }
  static float weight_of(int32_t word, float scale) { return f16_to_f32(static_cast<uint16_t>(word)) * scale; }
  static ek_status open(const void* packed, size_t packed_size, blocks::Layout* layout);
};

}  // namespace edgekern::f16
