// Expanding bitmap lines where no instruction does it: a byte of mask looks up the shuffle that puts kept values in place.
#pragma once

#include <immintrin.h>
#include <string.h>

#include "isa/expand_table.h"
#include "isa/tile.h"

namespace edgekern {
namespace {

// 16 bytes of which the low 16 bits of mask say what is kept: a shuffle for each 8.
EK_INLINE __m128i expand_bytes(uint64_t mask, const int8_t* values) {
  auto pair = [](const void* low, const void* high) EK_LAMBDA_INLINE {
    __m128d first = _mm_load_sd(static_cast<const double*>(low));
    return _mm_castpd_si128(_mm_loadh_pd(first, static_cast<const double*>(high)));
  };
  uint64_t low = mask & 0xff, high = mask >> 8 & 0xff;
  return _mm_shuffle_epi8(pair(values, values + _mm_popcnt_u64(low)), pair(kExpandLow.at[low], kExpandHigh.at[high]));
}

// 8 fours of bytes. The table's bytes, widened, are vpermd's numbers of fours, and negative where there is none.
EK_INLINE __m256i expand_fours(uint64_t mask, const int8_t* values) {
  __m256i from = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kExpandLow.at[mask & 0xff])));
  __m256i kept = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
  return _mm256_andnot_si256(_mm256_srai_epi32(from, 31), _mm256_permutevar8x32_epi32(kept, from));
}

// The masks of a line's 64 weights or 16 fours, and how many values it keeps.
template <int U>
EK_INLINE uint64_t load_mask(const uint8_t* p) {
  uint64_t mask = 0;
  memcpy(&mask, p, 8 / U);
  return mask;
}
template <int U>
EK_INLINE int64_t kept_values(uint64_t mask) {
  return _mm_popcnt_u64(mask) * U;
}

// Bytes [32 i, 32 i + 32) of the line.
template <int U, int I>
EK_INLINE __m256i expand_half(uint64_t mask, const int8_t* values) {
  constexpr int kBits = 32 / U;
  auto from = [&](int bit) EK_LAMBDA_INLINE { return values + (bit == 0 ? 0 : kept_values<U>(mask << (64 - bit))); };
  if constexpr (U == 4) return expand_fours(mask >> I * kBits, from(I * kBits));
  return _mm256_set_m128i(expand_bytes(mask >> (I * kBits + 16), from(I * kBits + 16)),
                          expand_bytes(mask >> I * kBits, from(I * kBits)));
}

// For the ISAs of 256 bits.
struct Avx2Expand {
  struct Expanded {
    __m256i half[2];
  };
  template <int U>
  static EK_INLINE Expanded expand(const uint8_t* p, const int8_t*& values) {
    uint64_t mask = load_mask<U>(p);
    Expanded line{{expand_half<U, 0>(mask, values), expand_half<U, 1>(mask, values)}};
    values += kept_values<U>(mask);
    return line;
  }
  template <int N>
  static EK_INLINE __m256i expanded_rhs(const Expanded& line) {
    return line.half[N];
  }
  static EK_INLINE void store_expanded(int8_t* p, const Expanded& line) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(p), line.half[0]);
    _mm256_store_si256(reinterpret_cast<__m256i*>(p) + 1, line.half[1]);
  }
  static constexpr int64_t kExpandAhead = 1024;
  static constexpr int64_t kMasksAhead = 512;
};

}  // namespace
}  // namespace edgekern
