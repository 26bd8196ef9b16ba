// What the ARM ISAs share beyond vectors: two rows of lhs side by side, and steps of 8 k.
//
//   one load of lhs:   r0 k0-7 | r1 k0-7      smmla takes it as it is, sdot and smull a quarter of it by lane
//   activations:       s8 = u8 - 128
#pragma once

#include "formats/int8/layout.h"
#include "isa/neon_nibbles.h"
#include "isa/neon_vectors.h"

namespace edgekern {
namespace {

// Several vectors of sums for kLanes columns; each ISA says what they mean.
template <int N>
struct NeonSums {
  int32x4_t v[N];
};

struct NeonPairs : NeonVectors, NeonNibbles {
  static constexpr int kGroupRows = 2;
  static constexpr int64_t kStepDepth = 8;
  static constexpr int kLhsBytes = 1;
  static constexpr bool kHoldLhs = true;
  static constexpr int32_t kZeroOffset = 128;
  // No ARM core was measured yet: sequential panels are left to the hardware's prefetcher.
  static constexpr int kStreamRows = 0;
  static constexpr int64_t kPrefetchBytes = 0;
  static constexpr int phases_at(int, int) { return 1; }

  // kLanes columns of one step: two vectors, whatever the order of the packed matrix.
  struct Rhs {
    int8x16_t half[2];
  };

  template <int N>
  static EK_INLINE NeonSums<N> merge(NeonSums<N> a, const NeonSums<N>& b) {
    unroll<N>([&](auto i) EK_LAMBDA_INLINE { a.v[i] = vaddq_s32(a.v[i], b.v[i]); });
    return a;
  }

  static EK_INLINE void store_lhs(uint8_t* p, Bytes q, I32&) {
    uint8x16_t shifted = veorq_u8(q, vdupq_n_u8(0x80));
    vst1_u8(p, vget_low_u8(shifted));
    vst1_u8(p + kGroupRows * kStepDepth, vget_high_u8(shifted));
  }

 protected:
  // From lines of 4 k: the same columns of two lines, which are 64 bytes apart.
  template <int kVector>
  static EK_INLINE Rhs load_two_lines(const int8_t* p) {
    return {vld1q_s8(p + 16 * kVector), vld1q_s8(p + 64 + 16 * kVector)};
  }
  template <int kVector>
  static EK_INLINE Rhs two_lines_of(const Expanded& step) {
    return {step.v[kVector], step.v[4 + kVector]};
  }
};

}  // namespace
}  // namespace edgekern
