// Lines of nibbles (formats/int4/lines.h) for the ISAs of 256 bits, whose products take a u8 and an s8. Here the weights are the
// u8, so that a nibble needs no sign, and activations the s8.
#pragma once

#include "isa/avx2_expand.h"
#include "isa/avx2_vectors.h"

namespace edgekern {
namespace {

struct Avx2Nibbles {
  static constexpr int32_t kZeroOffset = 128;
  static constexpr int kStreamRows = 0;         // of the weights in L1
  static constexpr int64_t kPrefetchBytes = 0;  // a panel is one stream, which the CPU's own prefetcher follows

  static EK_INLINE void store_lhs(uint8_t* p, __m256i q, __m256i&) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_xor_si256(q, _mm256_set1_epi8(-128)));
  }
  static EK_INLINE __m256i widen_u8(const uint8_t* p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }

  using Line = Avx2Expand::Expanded;
  // Beside the sums of two there is no room for a bitmap's zero points: more rows are multiplied from L1.
  static constexpr int kLineRows = 1;
  static EK_INLINE Line load_line(const uint8_t* p) {
    const __m256i* from = reinterpret_cast<const __m256i*>(p);
    return {{_mm256_load_si256(from), _mm256_load_si256(from + 1)}};
  }
  static EK_INLINE Line expand_line(const uint8_t* mask, const int8_t*& values) { return Avx2Expand::expand<1>(mask, values); }
  static EK_INLINE __m256i merge_in_place(__m256i low, __m256i high) {
    return _mm256_add_epi32(low, _mm256_srai_epi32(high, 4));
  }
  template <int kHalf, bool kInPlace>
  static EK_INLINE Line nibbles(Line line) {
    unroll<2>([&](auto i) EK_LAMBDA_INLINE {
      if constexpr (kHalf == 1 && !kInPlace) line.half[i] = _mm256_srli_epi16(line.half[i], 4);
      line.half[i] = _mm256_and_si256(line.half[i], _mm256_set1_epi8(kHalf == 1 && kInPlace ? -16 : 15));
    });
    return line;
  }

  using Zeros = Line;
  template <int>
  static EK_INLINE Zeros spread_zeros(const uint8_t* p) {
    __m256i all = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(p)));
    __m256i low = _mm256_setr_epi32(0, 0x01010101, 0x02020202, 0x03030303, 0x04040404, 0x05050505, 0x06060606, 0x07070707);
    return {{_mm256_shuffle_epi8(all, low), _mm256_shuffle_epi8(all, _mm256_add_epi8(low, _mm256_set1_epi8(8)))}};
  }
  template <int kHalf, bool kInPlace>
  static EK_INLINE Line nibbles_above(Line line, const Zeros& zeros) {
    unroll<2>([&](auto i) EK_LAMBDA_INLINE {
      __m256i zero = kHalf == 0 ? zeros.half[i] : _mm256_slli_epi16(zeros.half[i], 4);
      line.half[i] = _mm256_add_epi8(line.half[i], zero);
    });
    return nibbles<kHalf, kInPlace>(line);
  }
};

}  // namespace
}  // namespace edgekern
