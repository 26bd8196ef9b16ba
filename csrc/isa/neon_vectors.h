// 4-lane vectors for the ARM ISAs: everything in tile.h's vocabulary but the int8 products, in armv8.0 instructions.
#pragma once

#include <arm_neon.h>
#include <string.h>

#include "edgekern/edgekern.h"
#include "isa/tile.h"

namespace edgekern {
namespace {

struct NeonVectors {
  using F32 = float32x4_t;
  using I32 = int32x4_t;
  static constexpr int kLanes = 4;

  // ------------------------------------------------------------------------------------------------- floats
  static EK_INLINE F32 set(float v) { return vdupq_n_f32(v); }
  static EK_INLINE F32 load(const float* p) { return vld1q_f32(p); }
  static EK_INLINE F32 add(F32 a, F32 b) { return vaddq_f32(a, b); }
  static EK_INLINE F32 sub(F32 a, F32 b) { return vsubq_f32(a, b); }
  static EK_INLINE F32 mul(F32 a, F32 b) { return vmulq_f32(a, b); }
  static EK_INLINE F32 div(F32 a, F32 b) { return vdivq_f32(a, b); }
  static EK_INLINE F32 fma(F32 a, F32 b, F32 c) { return vfmaq_f32(c, a, b); }
  static EK_INLINE F32 min(F32 a, F32 b) { return vminq_f32(a, b); }
  static EK_INLINE F32 max(F32 a, F32 b) { return vmaxq_f32(a, b); }
  static EK_INLINE F32 round(F32 a) { return vrndnq_f32(a); }
  // 2^n for a whole n in [-126, 127], built in the exponent field.
  static EK_INLINE F32 pow2(F32 n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23));
  }
  static EK_INLINE F32 select_negative(F32 x, F32 if_negative, F32 otherwise) {
    return vbslq_f32(vreinterpretq_u32_s32(vshrq_n_s32(vreinterpretq_s32_f32(x), 31)), if_negative, otherwise);
  }
  static EK_INLINE float reduce_add(F32 v) { return vaddvq_f32(v); }
  static EK_INLINE float reduce_min(F32 v) { return vminvq_f32(v); }
  static EK_INLINE float reduce_max(F32 v) { return vmaxvq_f32(v); }

  template <ek_dtype D>
  static EK_INLINE F32 load_as(const void* p, int64_t i) {
    if constexpr (D == EK_F32) return vld1q_f32(static_cast<const float*>(p) + i);
    uint16x4_t half = vld1_u16(static_cast<const uint16_t*>(p) + i);
    if constexpr (D == EK_F16) return vcvt_f32_f16(vreinterpret_f16_u16(half));
    return vreinterpretq_f32_u32(vshll_n_u16(half, 16));
  }

  template <ek_dtype D>
  static EK_INLINE void store_as(void* p, int64_t i, F32 v) {
    if constexpr (D == EK_F32) {
      vst1q_f32(static_cast<float*>(p) + i, v);
    } else {
      vst1_u16(static_cast<uint16_t*>(p) + i, to_half<D>(v));
    }
  }
  template <ek_dtype D>
  static EK_INLINE void store_as(void* p, int64_t i, F32 v, int64_t count) {
    constexpr int64_t kBytes = D == EK_F32 ? 4 : 2;
    alignas(16) char whole[kLanes * kBytes];
    store_as<D>(whole, 0, v);
    memcpy(static_cast<char*>(p) + i * kBytes, whole, static_cast<size_t>(count * kBytes));
  }

  // ----------------------------------------------------------------------------------------------- integers
  static EK_INLINE I32 set_i32(int32_t v) { return vdupq_n_s32(v); }
  static EK_INLINE I32 load_i32(const int32_t* p) { return vld1q_s32(p); }
  static EK_INLINE void store_i32(int32_t* p, I32 v) { vst1q_s32(p, v); }
  static EK_INLINE I32 load_s8(const int8_t* p) {
    int32_t four;
    memcpy(&four, p, 4);
    return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)))));
  }
  static EK_INLINE I32 load_u8(const uint8_t* p) {
    uint32_t four;
    memcpy(&four, p, 4);
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four))))));
  }
  static EK_INLINE I32 add_i32(I32 a, I32 b) { return vaddq_s32(a, b); }
  static EK_INLINE I32 sub_i32(I32 a, I32 b) { return vsubq_s32(a, b); }
  static EK_INLINE I32 mul_i32(I32 a, I32 b) { return vmulq_s32(a, b); }
  static EK_INLINE I32 as_i32(F32 a) { return vreinterpretq_s32_f32(a); }
  static EK_INLINE F32 as_f32(I32 a) { return vreinterpretq_f32_s32(a); }
  static EK_INLINE F32 to_f32(I32 a) { return vcvtq_f32_s32(a); }
  static EK_INLINE int32_t reduce(I32 v) { return vaddvq_s32(v); }

  static EK_INLINE void transpose(I32 (&v)[kLanes]) {
    int64x2_t a = vreinterpretq_s64_s32(vtrn1q_s32(v[0], v[1])), b = vreinterpretq_s64_s32(vtrn2q_s32(v[0], v[1]));
    int64x2_t c = vreinterpretq_s64_s32(vtrn1q_s32(v[2], v[3])), d = vreinterpretq_s64_s32(vtrn2q_s32(v[2], v[3]));
    v[0] = vreinterpretq_s32_s64(vtrn1q_s64(a, c));
    v[1] = vreinterpretq_s32_s64(vtrn1q_s64(b, d));
    v[2] = vreinterpretq_s32_s64(vtrn2q_s64(a, c));
    v[3] = vreinterpretq_s32_s64(vtrn2q_s64(b, d));
  }

  // ----------------------------------------------------------------------------------- products of kept f32 weights
  // 16 accumulators, or the 8 of one channel, which a wider tile would not make cheaper by much.
  static constexpr int f32_vectors(int channels) { return channels <= 2 ? 8 : 16 / channels; }

  // Four weights a vector, to multiply by lane; one or two fill a part of it.
  template <int kWeights>
  struct F32Weights {
    float32x4_t four[(kWeights + 3) / 4];
  };
  template <int R, int B>
  static EK_INLINE F32Weights<R * B> load_f32_weights(const float* p) {
    constexpr int kWeights = R * B;
    F32Weights<kWeights> w;
    if constexpr (kWeights == 1) {
      w.four[0] = vld1q_dup_f32(p);
    } else if constexpr (kWeights == 2) {
      w.four[0] = vreinterpretq_f32_f64(vld1q_dup_f64(reinterpret_cast<const double*>(p)));
    } else {
      unroll<kWeights / 4>([&](auto i) EK_LAMBDA_INLINE { w.four[i] = vld1q_f32(p + 4 * i); });
    }
    return w;
  }
  template <int kWeight, int kWeights>
  static EK_INLINE F32 multiply_f32(F32 acc, F32 a, const F32Weights<kWeights>& w) {
    return vfmaq_laneq_f32(acc, a, w.four[kWeight / 4], kWeight % 4);
  }

  // ------------------------------------------------------------------------- planes of activations (formats/int8/csr.h)
  static EK_INLINE void split_words(I32 (&v)[4]) {
    uint8x16_t w[4];
    unroll<4>([&](auto i) EK_LAMBDA_INLINE { w[i] = vreinterpretq_u8_s32(v[i]); });
    uint8x16_t even01 = vuzp1q_u8(w[0], w[1]), even23 = vuzp1q_u8(w[2], w[3]);
    uint8x16_t odd01 = vuzp2q_u8(w[0], w[1]), odd23 = vuzp2q_u8(w[2], w[3]);
    v[0] = vreinterpretq_s32_u8(vuzp1q_u8(even01, even23));
    v[1] = vreinterpretq_s32_u8(vuzp1q_u8(odd01, odd23));
    v[2] = vreinterpretq_s32_u8(vuzp2q_u8(even01, even23));
    v[3] = vreinterpretq_s32_u8(vuzp2q_u8(odd01, odd23));
  }
  static EK_INLINE void join_planes(I32 (&v)[4]) {
    uint8x16_t p[4];
    unroll<4>([&](auto i) EK_LAMBDA_INLINE { p[i] = vreinterpretq_u8_s32(v[i]); });
    uint16x8_t low01 = vreinterpretq_u16_u8(vzip1q_u8(p[0], p[1])), high01 = vreinterpretq_u16_u8(vzip2q_u8(p[0], p[1]));
    uint16x8_t low23 = vreinterpretq_u16_u8(vzip1q_u8(p[2], p[3])), high23 = vreinterpretq_u16_u8(vzip2q_u8(p[2], p[3]));
    v[0] = vreinterpretq_s32_u16(vzip1q_u16(low01, low23));
    v[1] = vreinterpretq_s32_u16(vzip2q_u16(low01, low23));
    v[2] = vreinterpretq_s32_u16(vzip1q_u16(high01, high23));
    v[3] = vreinterpretq_s32_u16(vzip2q_u16(high01, high23));
  }
  static EK_INLINE void split_words(I32 (&v)[2]) {
    int16x8_t a = vreinterpretq_s16_s32(v[0]), b = vreinterpretq_s16_s32(v[1]);
    v[0] = vreinterpretq_s32_s16(vuzp1q_s16(a, b));
    v[1] = vreinterpretq_s32_s16(vuzp2q_s16(a, b));
  }
  static EK_INLINE void join_planes(I32 (&v)[2]) {
    int16x8_t a = vreinterpretq_s16_s32(v[0]), b = vreinterpretq_s16_s32(v[1]);
    v[0] = vreinterpretq_s32_s16(vzip1q_s16(a, b));
    v[1] = vreinterpretq_s32_s16(vzip2q_s16(a, b));
  }

  static EK_INLINE void join_rows(const uint8_t* const (&rows)[2], int64_t at, uint8_t* out) {
    uint8x16x2_t v{{vld1q_u8(rows[0] + at), vld1q_u8(rows[1] + at)}};
    vst2q_u8(out, v);
  }
  static EK_INLINE void join_rows(const uint8_t* const (&rows)[4], int64_t at, uint8_t* out) {
    uint8x16x4_t v{{vld1q_u8(rows[0] + at), vld1q_u8(rows[1] + at), vld1q_u8(rows[2] + at), vld1q_u8(rows[3] + at)}};
    vst4q_u8(out, v);
  }

  // ----------------------------------------------------------------------------------- weights to floats (formats/mixed)
  static constexpr int kMixedFewRows = 2, kMixedSums = 8, kMixedRows = 6, kMixedPanels = 1;
  static constexpr int64_t kMixedAhead = 0;  // as kPrefetchBytes
  static EK_INLINE F32 fma_onto(F32 sum, F32 a, F32 b) { return fma(a, b, sum); }
  template <int kByte>
  static EK_INLINE F32 signed_byte(I32 words) {
    if constexpr (kByte < 3) words = vshlq_n_s32(words, 24 - 8 * kByte);
    return vcvtq_f32_s32(vshrq_n_s32(words, 24));
  }
  // Its highest bit flipped, a nibble less 8 is in two's complement: once for all eight of a word.
  template <int kBit>
  static EK_INLINE F32 nibble_less_eight(I32 words) {
    words = veorq_s32(words, vdupq_n_s32(static_cast<int32_t>(0x88888888)));
    if constexpr (kBit < 28) words = vshlq_n_s32(words, 28 - kBit);
    return vcvtq_f32_s32(vshrq_n_s32(words, 28));
  }
  template <int kBit>
  static EK_INLINE F32 nibble_less(I32 words, I32 zero) {
    if constexpr (kBit > 0) words = vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(words), kBit));
    if constexpr (kBit < 28) words = vandq_s32(words, vdupq_n_s32(15));
    return vcvtq_f32_s32(vsubq_s32(words, zero));
  }
  static EK_INLINE I32 even_words(I32 a, I32 b) { return vuzp1q_s32(a, b); }
  static EK_INLINE I32 odd_words(I32 a, I32 b) { return vuzp2q_s32(a, b); }

  // ------------------------------------------------------------------------------- activations to u8, 16 a step
  using Bytes = uint8x16_t;
  static constexpr int kParts = 4;

  static EK_INLINE Bytes load_bytes(const uint8_t* p) { return vld1q_u8(p); }
  static EK_INLINE void store_bytes(uint8_t* p, Bytes v) { vst1q_u8(p, v); }
  static EK_INLINE Bytes max_bytes(Bytes a, Bytes b) { return vmaxq_u8(a, b); }
  static EK_INLINE Bytes to_bytes(const F32 (&x)[kParts], F32 inverse, I32 zero_point) {
    auto rounded = [&](int i) EK_LAMBDA_INLINE { return vaddq_s32(vcvtnq_s32_f32(vmulq_f32(x[i], inverse)), zero_point); };
    // Both narrowings saturate, which is the clamp to 0..255.
    int16x8_t low = vcombine_s16(vqmovn_s32(rounded(0)), vqmovn_s32(rounded(1)));
    int16x8_t high = vcombine_s16(vqmovn_s32(rounded(2)), vqmovn_s32(rounded(3)));
    return vcombine_u8(vqmovun_s16(low), vqmovun_s16(high));
  }
  static EK_INLINE void store_rounded(uint8_t* p, const F32 (&x)[kParts], int32_t low, int32_t high, int64_t count) {
    Bytes bytes = to_bytes(x, vdupq_n_f32(1.0f), vdupq_n_s32(0));
    bytes = vminq_u8(vmaxq_u8(bytes, vdupq_n_u8(static_cast<uint8_t>(low))), vdupq_n_u8(static_cast<uint8_t>(high)));
    if (count >= kParts * kLanes) return store_bytes(p, bytes);
    uint8_t all[kParts * kLanes];
    store_bytes(all, bytes);
    copy_bytes(p, all, count);
  }

 private:
  template <ek_dtype D>
  static EK_INLINE uint16x4_t to_half(F32 v) {
    if constexpr (D == EK_F16) return vreinterpret_u16_f16(vcvt_f16_f32(v));
    // bf16, half to even: add 0x7fff and the bit that will be last, then cut. NaN would overflow into Inf: it is set apart.
    uint32x4_t u = vreinterpretq_u32_f32(v);
    uint32x4_t last = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    uint32x4_t rounded = vaddq_u32(u, vaddq_u32(last, vdupq_n_u32(0x7fff)));
    uint32x4_t quiet = vorrq_u32(u, vdupq_n_u32(0x400000));
    return vshrn_n_u32(vbslq_u32(vceqq_f32(v, v), rounded, quiet), 16);
  }
};

}  // namespace
}  // namespace edgekern
