// 8-lane vectors for the 256-bit ISAs: everything in tile.h's vocabulary but the products.
#pragma once

#include <immintrin.h>
#include <string.h>

#include "edgekern/edgekern.h"
#include "isa/tile.h"

namespace edgekern {
namespace {

struct Avx2Vectors {
  using F32 = __m256;
  using I32 = __m256i;
  static constexpr int kLanes = 8;

  // ------------------------------------------------------------------------------------------------- floats
  static EK_INLINE F32 set(float v) { return _mm256_set1_ps(v); }
  static EK_INLINE F32 load(const float* p) { return _mm256_loadu_ps(p); }
  static EK_INLINE F32 add(F32 a, F32 b) { return _mm256_add_ps(a, b); }
  static EK_INLINE F32 sub(F32 a, F32 b) { return _mm256_sub_ps(a, b); }
  static EK_INLINE F32 mul(F32 a, F32 b) { return _mm256_mul_ps(a, b); }
  static EK_INLINE F32 div(F32 a, F32 b) { return _mm256_div_ps(a, b); }
  static EK_INLINE F32 fma(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a, b, c); }
  static EK_INLINE F32 min(F32 a, F32 b) { return _mm256_min_ps(a, b); }
  static EK_INLINE F32 max(F32 a, F32 b) { return _mm256_max_ps(a, b); }
  static EK_INLINE F32 round(F32 a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // 2^n for a whole n in [-126, 127], built in the exponent field.
  static EK_INLINE F32 pow2(F32 n) {
    I32 biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
  }
  static EK_INLINE F32 select_negative(F32 x, F32 if_negative, F32 otherwise) {
    return _mm256_blendv_ps(otherwise, if_negative, x);
  }
  static EK_INLINE float reduce_add(F32 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  static EK_INLINE float reduce_min(F32 v) {
    __m128 s = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_min_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_min_ss(s, _mm_movehdup_ps(s)));
  }
  static EK_INLINE float reduce_max(F32 v) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
  }

  template <ek_dtype D>
  static EK_INLINE F32 load_as(const void* p, int64_t i) {
    if constexpr (D == EK_F32) return _mm256_loadu_ps(static_cast<const float*>(p) + i);
    __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(static_cast<const uint16_t*>(p) + i));
    if constexpr (D == EK_F16) return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }

  template <ek_dtype D>
  static EK_INLINE void store_as(void* p, int64_t i, F32 v) {
    if constexpr (D == EK_F32) {
      _mm256_storeu_ps(static_cast<float*>(p) + i, v);
    } else {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(static_cast<uint16_t*>(p) + i), to_half<D>(v));
    }
  }
  template <ek_dtype D>
  static EK_INLINE void store_as(void* p, int64_t i, F32 v, int64_t count) {
    constexpr int64_t kBytes = D == EK_F32 ? 4 : 2;
    alignas(32) char whole[kLanes * kBytes];
    store_as<D>(whole, 0, v);
    memcpy(static_cast<char*>(p) + i * kBytes, whole, static_cast<size_t>(count * kBytes));
  }

  // ----------------------------------------------------------------------------------------------- integers
  static EK_INLINE I32 set_i32(int32_t v) { return _mm256_set1_epi32(v); }
  static EK_INLINE I32 load_i32(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static EK_INLINE void store_i32(int32_t* p, I32 v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  static EK_INLINE I32 load_s8(const int8_t* p) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static EK_INLINE I32 load_u8(const uint8_t* p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static EK_INLINE I32 add_i32(I32 a, I32 b) { return _mm256_add_epi32(a, b); }
  static EK_INLINE I32 sub_i32(I32 a, I32 b) { return _mm256_sub_epi32(a, b); }
  static EK_INLINE I32 mul_i32(I32 a, I32 b) { return _mm256_mullo_epi32(a, b); }
  static EK_INLINE I32 as_i32(F32 a) { return _mm256_castps_si256(a); }
  static EK_INLINE F32 as_f32(I32 a) { return _mm256_castsi256_ps(a); }
  static EK_INLINE F32 to_f32(I32 a) { return _mm256_cvtepi32_ps(a); }
  static EK_INLINE int32_t reduce(I32 v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
  }

  static EK_INLINE void transpose(I32 (&v)[kLanes]) {
    I32 pairs[8], fours[8];
    unroll<4>([&](auto i) EK_LAMBDA_INLINE {
      pairs[2 * i] = _mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
      pairs[2 * i + 1] = _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    });
    unroll<4>([&](auto i) EK_LAMBDA_INLINE {  // rows 4h..4h+3 of columns c and c + 4
      constexpr int h = i / 2, c = i % 2;
      fours[4 * h + 2 * c] = _mm256_unpacklo_epi64(pairs[4 * h + c], pairs[4 * h + 2 + c]);
      fours[4 * h + 2 * c + 1] = _mm256_unpackhi_epi64(pairs[4 * h + c], pairs[4 * h + 2 + c]);
    });
    unroll<4>([&](auto c) EK_LAMBDA_INLINE {
      v[c] = _mm256_permute2x128_si256(fours[c], fours[4 + c], 0x20);
      v[4 + c] = _mm256_permute2x128_si256(fours[c], fours[4 + c], 0x31);
    });
  }

  // Four bytes, or two s16, of a word each to its plane, in rows of 4 of each vector for every 16 bytes; and back.
  static EK_INLINE void split_words(I32 (&v)[4]) {
    const __m256i by_byte = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    unroll<4>([&](auto i) EK_LAMBDA_INLINE { v[i] = _mm256_shuffle_epi8(v[i], by_byte); });
    I32 low01 = _mm256_unpacklo_epi32(v[0], v[1]), high01 = _mm256_unpackhi_epi32(v[0], v[1]);
    I32 low23 = _mm256_unpacklo_epi32(v[2], v[3]), high23 = _mm256_unpackhi_epi32(v[2], v[3]);
    v[0] = _mm256_unpacklo_epi64(low01, low23);
    v[1] = _mm256_unpackhi_epi64(low01, low23);
    v[2] = _mm256_unpacklo_epi64(high01, high23);
    v[3] = _mm256_unpackhi_epi64(high01, high23);
  }
  static EK_INLINE void join_planes(I32 (&v)[4]) {
    I32 low01 = _mm256_unpacklo_epi8(v[0], v[1]), high01 = _mm256_unpackhi_epi8(v[0], v[1]);
    I32 low23 = _mm256_unpacklo_epi8(v[2], v[3]), high23 = _mm256_unpackhi_epi8(v[2], v[3]);
    v[0] = _mm256_unpacklo_epi16(low01, low23);
    v[1] = _mm256_unpackhi_epi16(low01, low23);
    v[2] = _mm256_unpacklo_epi16(high01, high23);
    v[3] = _mm256_unpackhi_epi16(high01, high23);
  }
  static EK_INLINE void split_words(I32 (&v)[2]) {
    const __m256i by_half = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    I32 a = _mm256_shuffle_epi8(v[0], by_half), b = _mm256_shuffle_epi8(v[1], by_half);
    v[0] = _mm256_unpacklo_epi64(a, b);
    v[1] = _mm256_unpackhi_epi64(a, b);
  }
  static EK_INLINE void join_planes(I32 (&v)[2]) {
    I32 a = v[0];
    v[0] = _mm256_unpacklo_epi16(a, v[1]);
    v[1] = _mm256_unpackhi_epi16(a, v[1]);
  }

  static EK_INLINE void join_rows(const uint8_t* const (&rows)[2], int64_t at, uint8_t* out) {
    __m128i a = load_16(rows[0] + at), b = load_16(rows[1] + at);
    store_16(out, _mm_unpacklo_epi8(a, b));
    store_16(out + 16, _mm_unpackhi_epi8(a, b));
  }
  static EK_INLINE void join_rows(const uint8_t* const (&rows)[4], int64_t at, uint8_t* out) {
    __m128i a = load_16(rows[0] + at), b = load_16(rows[1] + at), c = load_16(rows[2] + at), d = load_16(rows[3] + at);
    __m128i low01 = _mm_unpacklo_epi8(a, b), high01 = _mm_unpackhi_epi8(a, b);
    __m128i low23 = _mm_unpacklo_epi8(c, d), high23 = _mm_unpackhi_epi8(c, d);
    store_16(out, _mm_unpacklo_epi16(low01, low23));
    store_16(out + 16, _mm_unpackhi_epi16(low01, low23));
    store_16(out + 32, _mm_unpacklo_epi16(high01, high23));
    store_16(out + 48, _mm_unpackhi_epi16(high01, high23));
  }

  // ----------------------------------------------------------------------------------- weights to floats (formats/mixed)
  static constexpr int kMixedFewRows = 2, kMixedSums = 8, kMixedRows = 6, kMixedPanels = 1;
  static constexpr int64_t kMixedAhead = 1024;
  // One instruction by hand: gcc 12 leaves some sums in a weight's register, and copies them back once a turn.
  static EK_INLINE F32 fma_onto(F32 sum, F32 a, F32 b) {
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
    return sum;
  }
  template <int kByte>
  static EK_INLINE F32 signed_byte(I32 words) {
    if constexpr (kByte < 3) words = _mm256_slli_epi32(words, 24 - 8 * kByte);
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(words, 24));
  }
  // Its highest bit flipped, a nibble less 8 is in two's complement: once for all eight of a word.
  template <int kBit>
  static EK_INLINE F32 nibble_less_eight(I32 words) {
    words = _mm256_xor_si256(words, _mm256_set1_epi32(static_cast<int32_t>(0x88888888)));
    if constexpr (kBit < 28) words = _mm256_slli_epi32(words, 28 - kBit);
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(words, 28));
  }
  template <int kBit>
  static EK_INLINE F32 nibble_less(I32 words, I32 zero) {
    if constexpr (kBit > 0) words = _mm256_srli_epi32(words, kBit);
    if constexpr (kBit < 28) words = _mm256_and_si256(words, _mm256_set1_epi32(15));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(words, zero));
  }

  // ------------------------------------------------------------------------------- activations to u8, 32 a step
  using Bytes = __m256i;
  static constexpr int kParts = 4;

  static EK_INLINE Bytes load_bytes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static EK_INLINE void store_bytes(uint8_t* p, Bytes v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  static EK_INLINE Bytes max_bytes(Bytes a, Bytes b) { return _mm256_max_epu8(a, b); }
  static EK_INLINE Bytes to_bytes(const F32 (&x)[kParts], F32 inverse, I32 zero_point) {
    auto rounded = [&](int i) EK_LAMBDA_INLINE {
      return _mm256_add_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(x[i], inverse)), zero_point);
    };
    return narrow(rounded(0), rounded(1), rounded(2), rounded(3));
  }

  static EK_INLINE void store_rounded(uint8_t* p, const F32 (&x)[kParts], int32_t low, int32_t high, int64_t count) {
    const F32 highest = set(static_cast<float>(high));
    auto rounded = [&](int i) EK_LAMBDA_INLINE { return _mm256_cvtps_epi32(min(highest, x[i])); };
    // A NaN becomes the lowest integer, and then 0.
    Bytes bytes = narrow(rounded(0), rounded(1), rounded(2), rounded(3));
    store_some(p, _mm256_max_epu8(bytes, _mm256_set1_epi8(static_cast<char>(low))), count);
  }

 private:
  static EK_INLINE void store_some(uint8_t* p, Bytes bytes, int64_t count) {
    if (count >= kParts * kLanes) return store_bytes(p, bytes);
    alignas(64) uint8_t all[kParts * kLanes];
    store_bytes(all, bytes);
    copy_bytes(p, all, count);
  }
  // Both packs saturate, which is the clamp to 0..255; they work in 128-bit halves, so dwords come out interleaved.
  static EK_INLINE Bytes narrow(I32 a, I32 b, I32 c, I32 d) {
    __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }
  static EK_INLINE __m128i load_16(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
  static EK_INLINE void store_16(uint8_t* p, __m128i v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v); }
  template <ek_dtype D>
  static EK_INLINE __m128i to_half(F32 v) {
    if constexpr (D == EK_F16) return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
    // bf16, half to even: add 0x7fff and the bit that will be last, then cut. NaN would overflow into Inf: it is set apart.
    __m256i u = _mm256_castps_si256(v);
    __m256i last = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(u, _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff)));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    __m256i words = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  }
};

}  // namespace
}  // namespace edgekern
