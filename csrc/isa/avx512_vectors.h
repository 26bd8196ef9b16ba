// 16-lane vectors for AVX-512: everything in tile.h's vocabulary but the int8 product itself.
#pragma once

#include <immintrin.h>
#include <string.h>

#include "edgekern/edgekern.h"
#include "isa/tile.h"

namespace edgekern {
namespace {

struct Avx512Vectors {
  using F32 = __m512;
  using I32 = __m512i;
  static constexpr int kLanes = 16;

  // ------------------------------------------------------------------------------------------------- floats
  static EK_INLINE F32 set(float v) { return _mm512_set1_ps(v); }
  static EK_INLINE F32 load(const float* p) { return _mm512_loadu_ps(p); }
  static EK_INLINE F32 add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
  static EK_INLINE F32 sub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
  static EK_INLINE F32 mul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
  static EK_INLINE F32 div(F32 a, F32 b) { return _mm512_div_ps(a, b); }
  static EK_INLINE F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
  static EK_INLINE F32 min(F32 a, F32 b) { return _mm512_min_ps(a, b); }
  static EK_INLINE F32 max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
  static EK_INLINE F32 round(F32 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static EK_INLINE F32 pow2(F32 n) { return _mm512_scalef_ps(_mm512_set1_ps(1.0f), n); }
  static EK_INLINE F32 select_negative(F32 x, F32 if_negative, F32 otherwise) {
    return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(x)), otherwise, if_negative);
  }
  static EK_INLINE float reduce_add(F32 v) { return _mm512_reduce_add_ps(v); }
  static EK_INLINE float reduce_min(F32 v) { return _mm512_reduce_min_ps(v); }
  static EK_INLINE float reduce_max(F32 v) { return _mm512_reduce_max_ps(v); }

  template <ek_dtype D>
  static EK_INLINE F32 load_as(const void* p, int64_t i) {
    if constexpr (D == EK_F32) return _mm512_loadu_ps(static_cast<const float*>(p) + i);
    __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(static_cast<const uint16_t*>(p) + i));
    if constexpr (D == EK_F16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  template <ek_dtype D>
  static EK_INLINE void store_as(void* p, int64_t i, F32 v) {
    store_as<D>(p, i, v, kLanes);
  }
  template <ek_dtype D>
  static EK_INLINE void store_as(void* p, int64_t i, F32 v, int64_t count) {
    __mmask16 lanes = static_cast<__mmask16>((1u << count) - 1);
    if constexpr (D == EK_F32) {
      _mm512_mask_storeu_ps(static_cast<float*>(p) + i, lanes, v);
    } else {
      _mm256_mask_storeu_epi16(static_cast<uint16_t*>(p) + i, lanes, to_half<D>(v));
    }
  }

  // ----------------------------------------------------------------------------------------------- integers
  static EK_INLINE I32 set_i32(int32_t v) { return _mm512_set1_epi32(v); }
  static EK_INLINE I32 load_i32(const int32_t* p) { return _mm512_loadu_si512(p); }
  static EK_INLINE void store_i32(int32_t* p, I32 v) { _mm512_storeu_si512(p, v); }
  static EK_INLINE I32 load_s8(const int8_t* p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static EK_INLINE I32 load_u8(const uint8_t* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static EK_INLINE I32 add_i32(I32 a, I32 b) { return _mm512_add_epi32(a, b); }
  static EK_INLINE I32 sub_i32(I32 a, I32 b) { return _mm512_sub_epi32(a, b); }
  static EK_INLINE I32 mul_i32(I32 a, I32 b) { return _mm512_mullo_epi32(a, b); }
  static EK_INLINE I32 as_i32(F32 a) { return _mm512_castps_si512(a); }
  static EK_INLINE F32 as_f32(I32 a) { return _mm512_castsi512_ps(a); }
  static EK_INLINE F32 to_f32(I32 a) { return _mm512_cvtepi32_ps(a); }
  // Not _mm512_reduce_add_epi32, in which signed sums overflow: sums wrap here, as in all vectors.
  static EK_INLINE int32_t reduce(I32 v) {
    v = _mm512_add_epi32(v, _mm512_shuffle_i64x2(v, v, 0x4e));
    v = _mm512_add_epi32(v, _mm512_shuffle_i64x2(v, v, 0xb1));
    v = _mm512_add_epi32(v, _mm512_shuffle_epi32(v, _MM_PERM_BADC));
    v = _mm512_add_epi32(v, _mm512_shuffle_epi32(v, _MM_PERM_CDAB));
    return _mm_cvtsi128_si32(_mm512_castsi512_si128(v));
  }

  static EK_INLINE void transpose(I32 (&v)[kLanes]) {
    I32 a[kLanes], b[kLanes];
    unroll<8>([&](auto i) EK_LAMBDA_INLINE {
      a[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
      a[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    });
    unroll<8>([&](auto i) EK_LAMBDA_INLINE {  // b[4h + c]: rows 4h..4h+3 of columns c, 4 + c, 8 + c, 12 + c
      constexpr int h = i / 2, c = i % 2;
      b[4 * h + 2 * c] = _mm512_unpacklo_epi64(a[4 * h + c], a[4 * h + 2 + c]);
      b[4 * h + 2 * c + 1] = _mm512_unpackhi_epi64(a[4 * h + c], a[4 * h + 2 + c]);
    });
    unroll<4>([&](auto c) EK_LAMBDA_INLINE {  // quarters of b[c], b[4 + c], b[8 + c], b[12 + c], like a 4 x 4 matrix
      I32 low01 = _mm512_shuffle_i32x4(b[c], b[4 + c], 0x88), high01 = _mm512_shuffle_i32x4(b[c], b[4 + c], 0xdd);
      I32 low23 = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0x88), high23 = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0xdd);
      v[c] = _mm512_shuffle_i32x4(low01, low23, 0x88);
      v[4 + c] = _mm512_shuffle_i32x4(high01, high23, 0x88);
      v[8 + c] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
      v[12 + c] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
    });
  }

  // In every 16 bytes: byte 4i + j to 4j + i.
  static EK_INLINE I32 turn_bytes(I32 v) {
    return _mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
  }

  // Four bytes of a word each to its plane, in rows of 4 of each vector for every 16 bytes; and back.
  static EK_INLINE void split_words(I32 (&v)[4]) {
    unroll<4>([&](auto i) EK_LAMBDA_INLINE { v[i] = turn_bytes(v[i]); });
    I32 low01 = _mm512_unpacklo_epi32(v[0], v[1]), high01 = _mm512_unpackhi_epi32(v[0], v[1]);
    I32 low23 = _mm512_unpacklo_epi32(v[2], v[3]), high23 = _mm512_unpackhi_epi32(v[2], v[3]);
    v[0] = _mm512_unpacklo_epi64(low01, low23);
    v[1] = _mm512_unpackhi_epi64(low01, low23);
    v[2] = _mm512_unpacklo_epi64(high01, high23);
    v[3] = _mm512_unpackhi_epi64(high01, high23);
  }
  static EK_INLINE void join_planes(I32 (&v)[4]) {
    I32 low01 = _mm512_unpacklo_epi8(v[0], v[1]), high01 = _mm512_unpackhi_epi8(v[0], v[1]);
    I32 low23 = _mm512_unpacklo_epi8(v[2], v[3]), high23 = _mm512_unpackhi_epi8(v[2], v[3]);
    v[0] = _mm512_unpacklo_epi16(low01, low23);
    v[1] = _mm512_unpackhi_epi16(low01, low23);
    v[2] = _mm512_unpacklo_epi16(high01, high23);
    v[3] = _mm512_unpackhi_epi16(high01, high23);
  }
  // The same for 16 rows: a word each, or 16 bytes of four planes.
  static EK_INLINE I32 split_word(I32 v) {
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), turn_bytes(v));
  }
  static EK_INLINE I32 join_parts(const int32_t* const (&planes)[4], int64_t at) {
    return join_16([&](int d) EK_LAMBDA_INLINE { return _mm_load_si128(reinterpret_cast<const __m128i*>(planes[d] + at)); });
  }
  static EK_INLINE void join_rows(const uint8_t* const (&rows)[4], int64_t at, uint8_t* out) {
    auto part = [&](int d) EK_LAMBDA_INLINE { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[d] + at)); };
    _mm512_storeu_si512(out, join_16(part));
  }
  // 64 channels: lane l of vector v has those from 16 l + 4 v on, as unpacking leaves them.
  static EK_INLINE void join_wide(const uint8_t* const (&rows)[4], int64_t at, uint8_t* out) {
    I32 v[4];
    unroll<4>([&](auto d) EK_LAMBDA_INLINE { v[d] = _mm512_loadu_si512(rows[d] + at); });
    join_planes(v);
    unroll<4>([&](auto d) EK_LAMBDA_INLINE { _mm512_storeu_si512(out + 64 * d, v[d]); });
  }
  static EK_INLINE void wide_order(I32 (&v)[4]) {
    I32 low01 = _mm512_shuffle_i32x4(v[0], v[1], 0x44), high01 = _mm512_shuffle_i32x4(v[0], v[1], 0xee);
    I32 low23 = _mm512_shuffle_i32x4(v[2], v[3], 0x44), high23 = _mm512_shuffle_i32x4(v[2], v[3], 0xee);
    v[0] = _mm512_shuffle_i32x4(low01, low23, 0x88);
    v[1] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
    v[2] = _mm512_shuffle_i32x4(high01, high23, 0x88);
    v[3] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
  }
  template <class Part>
  static EK_INLINE I32 join_16(Part&& part) {
    __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(part(0)), part(1), 1);
    __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(part(2)), part(3), 1);
    const I32 by_rows = _mm512_setr_epi32(0, 4, 16, 20, 1, 5, 17, 21, 2, 6, 18, 22, 3, 7, 19, 23);
    return turn_bytes(_mm512_permutex2var_epi32(_mm512_castsi256_si512(low), by_rows, _mm512_castsi256_si512(high)));
  }

  // ----------------------------------------------------------------------------------- weights to floats (formats/mixed)
  static constexpr int kMixedFewRows = 3, kMixedSums = 16, kMixedRows = 12, kMixedPanels = 2;
  static constexpr int64_t kMixedAhead = 1024;
  static EK_INLINE F32 fma_onto(F32 sum, F32 a, F32 b) { return fma(a, b, sum); }
  template <int kByte>
  static EK_INLINE F32 signed_byte(I32 words) {
    if constexpr (kByte < 3) words = _mm512_slli_epi32(words, 24 - 8 * kByte);
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(words, 24));
  }
  // vpermps looks at the low four bits of a lane alone.
  template <int kBit>
  static EK_INLINE F32 nibble_less_eight(I32 words) {
    if constexpr (kBit > 0) words = _mm512_srli_epi32(words, kBit);
    return _mm512_permutexvar_ps(words, _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7));
  }
  template <int kBit>
  static EK_INLINE F32 nibble_less(I32 words, I32 zero) {
    if constexpr (kBit > 0) words = _mm512_srli_epi32(words, kBit);
    const F32 table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_sub_ps(_mm512_permutexvar_ps(words, table), _mm512_cvtepi32_ps(zero));
  }

  // ------------------------------------------------------------------------------- activations to u8, 16 a part
  struct Bytes {
    __m128i part[4];
  };
  static constexpr int kParts = 4;

  static EK_INLINE Bytes load_bytes(const uint8_t* p) {
    Bytes v;
    unroll<kParts>([&](auto i) EK_LAMBDA_INLINE { v.part[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p) + i); });
    return v;
  }
  static EK_INLINE void store_bytes(uint8_t* p, const Bytes& v) {
    unroll<kParts>([&](auto i) EK_LAMBDA_INLINE { _mm_storeu_si128(reinterpret_cast<__m128i*>(p) + i, v.part[i]); });
  }
  static EK_INLINE Bytes max_bytes(const Bytes& a, const Bytes& b) {
    Bytes v;
    unroll<kParts>([&](auto i) EK_LAMBDA_INLINE { v.part[i] = _mm_max_epu8(a.part[i], b.part[i]); });
    return v;
  }
  static EK_INLINE Bytes to_bytes(const F32 (&x)[kParts], F32 inverse, I32 zero_point) {
    Bytes v;
    unroll<kParts>([&](auto i) EK_LAMBDA_INLINE {
      I32 q = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(x[i], inverse)), zero_point);
      // vpmovusdb saturates as unsigned: only the clamp at zero is left to do.
      v.part[i] = _mm512_cvtusepi32_epi8(_mm512_max_epi32(q, _mm512_setzero_si512()));
    });
    return v;
  }

  static EK_INLINE void store_rounded(uint8_t* p, const F32 (&x)[kParts], int32_t low, int32_t high, int64_t count) {
    const __m512i by_parts = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i bytes = _mm512_permutexvar_epi32(by_parts, rounded_by_lanes(x, low, high));
    if (count >= kParts * kLanes)
      _mm512_storeu_si512(p, bytes);
    else
      _mm512_mask_storeu_epi8(p, (__mmask64{1} << count) - 1, bytes);
  }

  // Of vectors in the order of join_wide, which the packs undo.
  static EK_INLINE void store_rounded_wide(uint8_t* p, const F32 (&x)[kParts], int32_t low, int32_t high) {
    _mm512_storeu_si512(p, rounded_by_lanes(x, low, high));
  }

 private:
  // In each 128 bits those of x[0], x[1], x[2], x[3].
  static EK_INLINE __m512i rounded_by_lanes(const F32 (&x)[kParts], int32_t low, int32_t high) {
    const F32 highest = set(static_cast<float>(high));
    // The packs saturate, which is the limit at 0; a NaN becomes the lowest integer, and then 0.
    auto rounded = [&](int i) EK_LAMBDA_INLINE { return _mm512_cvtps_epi32(min(highest, x[i])); };
    __m512i words01 = _mm512_packs_epi32(rounded(0), rounded(1)), words23 = _mm512_packs_epi32(rounded(2), rounded(3));
    return _mm512_max_epu8(_mm512_packus_epi16(words01, words23), _mm512_set1_epi8(static_cast<char>(low)));
  }
  template <ek_dtype D>
  static EK_INLINE __m256i to_half(F32 v) {
    if constexpr (D == EK_F16) return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
    // bf16, half to even: add 0x7fff and the bit that will be last, then cut. NaN would overflow into Inf: it is set apart.
    __m512i u = _mm512_castps_si512(v);
    __m512i last = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(u, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff)));
    __m512i quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
    __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(is_nan, rounded, quiet), 16));
  }
};

}  // namespace
}  // namespace edgekern
