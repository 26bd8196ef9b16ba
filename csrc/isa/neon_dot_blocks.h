// Products of kept blocks with sdot: 4 rows of lhs against one block's 4 weights, by lane. i8mm's matrix multiply would need
// blocks 8 k deep, so cores that have it use this too.
#pragma once

#include "isa/neon_pairs.h"

namespace edgekern {
namespace {

struct NeonDotBlocks : NeonPairs {
  static constexpr int8::Order kBlockOrder{.line_depth = 4, .odd_sums = 0};
  static constexpr int32_t kBlockZeroOffset = 128;
  // 16 accumulators, or the 8 of one channel, which a wider tile would not make cheaper by much.
  static constexpr int block_vectors(int channels) { return channels <= 2 ? 8 : 16 / channels; }
  static constexpr int block_phases(int, int) { return 1; }
  static constexpr int kCsrUnroll = 2;
  static constexpr bool kJoinsParts = false;

  using BlockAcc = int32x4_t;
  static EK_INLINE I32 block_zero() { return vdupq_n_s32(0); }
  static EK_INLINE I32 merge_blocks(I32 a, I32 b) { return vaddq_s32(a, b); }
  static EK_INLINE I32 block_sum(I32 acc) { return acc; }
  static EK_INLINE I32 spread_blocks(const uint8_t* q, int32_t) {
    return vreinterpretq_s32_u8(veorq_u8(vld1q_u8(q), vdupq_n_u8(0x80)));
  }

  static EK_INLINE I32 multiply_lanes(I32 acc, I32 a, I32 weights) {
    return vdotq_s32(acc, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(weights));
  }

  // Four channels' weights a vector; one or two fill a part of it.
  template <int kWeights>
  struct Weights {
    int8x16_t four[(kWeights + 3) / 4];
  };
  template <int R, int B>
  static EK_INLINE Weights<R * B> load_weights(const int32_t* p) {
    constexpr int kWeights = R * B;
    Weights<kWeights> w;
    if constexpr (kWeights == 1) {
      w.four[0] = vreinterpretq_s8_s32(vld1q_dup_s32(p));
    } else if constexpr (kWeights == 2) {
      w.four[0] = vreinterpretq_s8_s64(vld1q_dup_s64(reinterpret_cast<const int64_t*>(p)));
    } else {
      unroll<kWeights / 4>([&](auto i) EK_LAMBDA_INLINE { w.four[i] = vreinterpretq_s8_s32(vld1q_s32(p + 4 * i)); });
    }
    return w;
  }
  template <int kWeight, int kWeights>
  static EK_INLINE I32 multiply_block(I32 acc, I32 a, const Weights<kWeights>& w) {
    return vdotq_laneq_s32(acc, vreinterpretq_s8_s32(a), w.four[kWeight / 4], kWeight % 4);
  }
};

}  // namespace
}  // namespace edgekern
