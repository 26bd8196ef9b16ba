// int4 for AVX-512 VNNI: lines of nibbles (formats/int4/lines.h), for both ISAs that have it.
//
// vpdpbusd takes a u8 and an s8. Here the weights are the u8, so that a nibble needs no sign, and activations the s8.
//
// One row: a panel is one stream of memory, and its sums are 4 chains against a latency of 4-5: two lines, low and high nibbles.
#pragma once

#include "isa/avx512_product.h"

namespace edgekern {
namespace {

template <class Int8>
struct Avx512Nibbles : Int8 {
  static constexpr const char* kInt4GemmName = "int4_gemm_avx512_vnni";
  static constexpr const char* kInt4GemvName = "int4_gemv_avx512_vnni";

  using I32 = typename Int8::I32;
  using Lhs = typename Int8::Lhs;
  using Rhs = typename Int8::Rhs;
  static constexpr int32_t kZeroOffset = 128;
  static constexpr int kStreamRows = 0;  // of the weights in L1
  // A panel is one stream, which Zen 4's own prefetcher follows: any in advance of it takes longer, 1,024 bytes ahead by 15 %.
  static constexpr int64_t kPrefetchBytes = 0;

  static EK_INLINE I32 multiply(I32 acc, Lhs lhs, Rhs rhs) { return Int8::multiply(acc, rhs, lhs); }
  static EK_INLINE void store_lhs(uint8_t* p, typename Int8::Bytes q, I32&) {
    unroll<Int8::kParts>([&](auto i) EK_LAMBDA_INLINE { q.part[i] = _mm_xor_si128(q.part[i], _mm_set1_epi8(-128)); });
    Int8::store_bytes(p, q);
  }
  static EK_INLINE I32 widen_u8(const uint8_t* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }

  using Line = __m512i;
  static constexpr int kLineRows = 4;
  static constexpr int line_phases_at(int rows) { return rows == 1 ? 4 : 2; }
  static constexpr bool kHighInPlace = true;
  static EK_INLINE Line load_line(const uint8_t* p) { return _mm512_load_si512(p); }
  static EK_INLINE Line expand_line(const uint8_t* mask, const int8_t*& values) {
    return Int8::template expand<1>(mask, values);
  }
  static EK_INLINE I32 merge_in_place(I32 low, I32 high) { return _mm512_add_epi32(low, _mm512_srai_epi32(high, 4)); }
  template <int kHalf, bool kInPlace>
  static EK_INLINE Line nibbles(Line line) {
    if constexpr (kHalf == 1 && !kInPlace) line = _mm512_srli_epi16(line, 4);
    return _mm512_and_si512(line, _mm512_set1_epi8(kHalf == 1 && kInPlace ? -16 : 15));
  }

  struct Zeros {
    __m512i low, high;  // high: times 16
  };
  template <int>
  static EK_INLINE Zeros spread_zeros(const uint8_t* p) {
    __m512i all = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(p)));
    __m512i from =
        _mm512_add_epi32(_mm512_set4_epi32(0x03030303, 0x02020202, 0x01010101, 0),
                         _mm512_setr_epi32(0, 0, 0, 0, 0x04040404, 0x04040404, 0x04040404, 0x04040404, 0x08080808, 0x08080808,
                                           0x08080808, 0x08080808, 0x0c0c0c0c, 0x0c0c0c0c, 0x0c0c0c0c, 0x0c0c0c0c));
    __m512i zeros = _mm512_shuffle_epi8(all, from);
    return {zeros, _mm512_slli_epi16(zeros, 4)};
  }
  template <int kHalf, bool kInPlace>
  static EK_INLINE Line nibbles_above(Line line, const Zeros& zeros) {
    return nibbles<kHalf, kInPlace>(_mm512_add_epi8(line, kHalf == 0 ? zeros.low : zeros.high));
  }
};

}  // namespace
}  // namespace edgekern
