// ARMv8.2's half-precision arithmetic, 8 values an instruction, which every core with the dot product has: the range of an
// f16 row, and the products of kept f16 weights.
#pragma once

#include "isa/neon_vectors.h"

namespace edgekern {
namespace {

// Minimum and maximum are exact in any precision, so the range found in f16 is the same as in f32, and there is nothing to
// convert. Rounding to u8 is not: it stays in f32, as on every ISA.
struct NeonHalfRange {
  using F32 = float16x8_t;  // plays F32's part in find_range
  static constexpr int kLanes = 8;
  static constexpr int kParts = 4;

  static EK_INLINE F32 set(float v) { return vdupq_n_f16(static_cast<float16_t>(v)); }
  static EK_INLINE F32 add(F32 a, F32 b) { return vaddq_f16(a, b); }
  static EK_INLINE F32 min(F32 a, F32 b) { return vminq_f16(a, b); }
  static EK_INLINE F32 max(F32 a, F32 b) { return vmaxq_f16(a, b); }
  static EK_INLINE F32 fma(F32 a, F32 b, F32 c) { return vfmaq_f16(c, a, b); }
  static EK_INLINE float reduce_min(F32 v) { return static_cast<float>(vminvq_f16(v)); }
  static EK_INLINE float reduce_max(F32 v) { return static_cast<float>(vmaxvq_f16(v)); }
  static EK_INLINE float reduce_add(F32 v) {
    return NeonVectors::reduce_add(vaddq_f32(vcvt_f32_f16(vget_low_f16(v)), vcvt_high_f32_f16(v)));
  }

  template <ek_dtype D>
  static EK_INLINE F32 load_as(const void* p, int64_t i) {
    static_assert(D == EK_F16);
    return vreinterpretq_f16_u16(vld1q_u16(static_cast<const uint16_t*>(p) + i));
  }
};

template <ek_dtype D>
struct NeonHalfOr {
  using Range = NeonVectors;
};
template <>
struct NeonHalfOr<EK_F16> {
  using Range = NeonHalfRange;
};

// The vocabulary of formats/f16/spmm.h. Tiles have as many vectors as f32's, of twice the rows.
struct NeonHalves {
  using Vector = float16x8_t;
  static constexpr int kLanes = 8;

  static EK_INLINE Vector load(const uint16_t* p) { return vreinterpretq_f16_u16(vld1q_u16(p)); }
  static EK_INLINE void store(uint16_t* p, Vector v) { vst1q_u16(p, vreinterpretq_u16_f16(v)); }
  static EK_INLINE Vector zero() { return vreinterpretq_f16_u16(vdupq_n_u16(0)); }
  static EK_INLINE Vector add(Vector a, Vector b) { return vaddq_f16(a, b); }
  static EK_INLINE Vector round(float32x4_t low, float32x4_t high) { return vcvt_high_f16_f32(vcvt_f16_f32(low), high); }
  static EK_INLINE float32x4_t low(Vector v) { return vcvt_f32_f16(vget_low_f16(v)); }
  static EK_INLINE float32x4_t high(Vector v) { return vcvt_high_f32_f16(v); }

  static EK_INLINE void transpose(Vector (&v)[kLanes]) {
    uint32x4_t pairs[8];
    unroll<4>([&](auto i) EK_LAMBDA_INLINE {  // of rows 2i and 2i + 1: columns 0, 2, 4, 6, then 1, 3, 5, 7
      uint16x8_t a = vreinterpretq_u16_f16(v[2 * i]), b = vreinterpretq_u16_f16(v[2 * i + 1]);
      pairs[2 * i] = vreinterpretq_u32_u16(vtrn1q_u16(a, b));
      pairs[2 * i + 1] = vreinterpretq_u32_u16(vtrn2q_u16(a, b));
    });
    uint64x2_t fours[8];
    unroll<4>([&](auto i) EK_LAMBDA_INLINE {  // of rows 4h .. 4h + 3: columns c and c + 4, then c + 2 and c + 6
      constexpr int h = i / 2, c = i % 2;
      fours[4 * h + c] = vreinterpretq_u64_u32(vtrn1q_u32(pairs[4 * h + c], pairs[4 * h + 2 + c]));
      fours[4 * h + c + 2] = vreinterpretq_u64_u32(vtrn2q_u32(pairs[4 * h + c], pairs[4 * h + 2 + c]));
    });
    unroll<4>([&](auto c) EK_LAMBDA_INLINE {
      v[c] = vreinterpretq_f16_u64(vtrn1q_u64(fours[c], fours[4 + c]));
      v[c + 4] = vreinterpretq_f16_u64(vtrn2q_u64(fours[c], fours[4 + c]));
    });
  }

  // Eight weights a vector, to multiply by lane; fewer fill a part of it.
  template <int kWeights>
  struct Weights {
    float16x8_t eight[(kWeights + 7) / 8];
  };
  template <int R, int B>
  static EK_INLINE Weights<R * B> load_weights(const uint16_t* p) {
    constexpr int kWeights = R * B;
    Weights<kWeights> w;
    if constexpr (kWeights == 1) {
      w.eight[0] = vreinterpretq_f16_u16(vld1q_dup_u16(p));
    } else if constexpr (kWeights == 2) {
      uint32_t two;
      memcpy(&two, p, 4);
      w.eight[0] = vreinterpretq_f16_u32(vdupq_n_u32(two));
    } else if constexpr (kWeights == 4) {
      uint64_t four;
      memcpy(&four, p, 8);
      w.eight[0] = vreinterpretq_f16_u64(vdupq_n_u64(four));
    } else {
      unroll<kWeights / 8>([&](auto i) EK_LAMBDA_INLINE { w.eight[i] = load(p + 8 * i); });
    }
    return w;
  }
  template <int kWeight, int kWeights>
  static EK_INLINE Vector multiply(Vector acc, Vector a, const Weights<kWeights>& w) {
    return vfmaq_laneq_f16(acc, a, w.eight[kWeight / 8], kWeight % 8);
  }
};

}  // namespace
}  // namespace edgekern
