// The range of an f16 row, found in f16: 8 values an instruction and nothing to convert. Minimum and maximum are exact in
// any precision, so the result is the same as in f32. Rounding to u8 is not: it stays in f32, as on every ISA.
//
// For ARMv8.2's half-precision arithmetic, which every core with the dot product has.
#pragma once

#include "isa/neon_vectors.h"

namespace edgekern {
namespace {

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

}  // namespace
}  // namespace edgekern
