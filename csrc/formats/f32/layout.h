// The packed f32 matrix of kept blocks (formats/blocks/floats.h has the picture): weights as they are.
#pragma once

#include <math.h>

#include "base/half.h"
#include "formats/blocks/floats.h"

namespace edgekern::f32 {

struct Format {
  using Weight = float;
  static constexpr char kMagic[] = "EKF32B01";  // f32, blocks, version 1
  static constexpr bool kScaled = false;
  static constexpr float kLimit = INFINITY;

  static blocks::Layout layout_of(int64_t channels, int64_t n, int64_t k) {
    blocks::Layout layout{n, k, channels, 1, floats::kBiasOffset};
    layout.begin += layout.padded_n() * 4;  // padded_n does not depend on begin
    return layout;
  }
  static int32_t word_of(float weight, float) { return static_cast<int32_t>(f32_to_bits(weight)); }
  static float weight_of(int32_t word, float) { return bits_to_f32(static_cast<uint32_t>(word)); }
  static ek_status open(const void* packed, size_t packed_size, blocks::Layout* layout);
};

}  // namespace edgekern::f32
