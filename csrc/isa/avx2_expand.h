// Expanding bitmap lines where no instruction does it: a byte of mask looks up the shuffle that puts kept values in place.
#pragma once

#include <immintrin.h>
#include <string.h>

#include "isa/expand_table.h"
#include "isa/tile.h"

namespace edgekern {
namespace {

alignas(64) constexpr ExpandTable kExpandFours(8, 0);

// 16 bytes, of which two bytes of mask say what is kept: half a shuffle each. values is moved past what is.
EK_INLINE __m128i expand_bytes(const uint8_t* mask, const int8_t*& values) {
  auto pair = [](const void* low, const void* high) EK_LAMBDA_INLINE {
    __m128d first = _mm_castsi128_pd(_mm_loadl_epi64(static_cast<const __m128i*>(low)));
    return _mm_castpd_si128(_mm_loadh_pd(first, static_cast<const double*>(high)));
  };
  const int8_t* middle = values + _mm_popcnt_u64(mask[0]);
  __m128i kept = pair(values, middle);
  values = middle + _mm_popcnt_u64(mask[1]);
  return _mm_shuffle_epi8(kept, pair(kExpandLow.at[mask[0]], kExpandHigh.at[mask[1]]));
}

// 8 fours of bytes. Of the table's bytes, widened, vpermd reads the low 3 bits, and vpsignd makes zero what one of 0 stands for.
EK_INLINE __m256i expand_fours(const uint8_t* mask, const int8_t*& values) {
  __m256i from = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kExpandFours.at[*mask])));
  __m256i kept = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
  __asm__("" : "+x"(kept));  // a load of its own: vpermd of memory takes twice the time on Zen 3
  values += _mm_popcnt_u64(*mask) * 4;
  return _mm256_sign_epi32(_mm256_permutevar8x32_epi32(kept, from), from);
}

// 32 bytes of a line.
template <int U>
EK_INLINE __m256i expand_half(const uint8_t* mask, const int8_t*& values) {
  if constexpr (U == 4) return expand_fours(mask, values);
  __m128i low = expand_bytes(mask, values);
  return _mm256_set_m128i(expand_bytes(mask + 2, values), low);
}

// For the ISAs of 256 bits: lines of bytes, and of nibbles.
struct Avx2Expand {
  struct Expanded {
    __m256i half[2];
  };
  template <int U>
  static EK_INLINE Expanded expand(const uint8_t* mask, const int8_t*& values) {
    __m256i low = expand_half<U>(mask, values);
    return {{low, expand_half<U>(mask + 4 / U, values)}};
  }
  template <int N>
  static EK_INLINE __m256i expanded_rhs(const Expanded& line) {
    return line.half[N];
  }
  static EK_INLINE void store_expanded(int8_t* p, const Expanded& line) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(p), line.half[0]);
    _mm256_store_si256(reinterpret_cast<__m256i*>(p) + 1, line.half[1]);
  }

  static constexpr int kExpandRows = 4;
  static constexpr int64_t kExpandAhead = 2048;
  static constexpr int64_t kMasksAhead = 512;
};

}  // namespace
}  // namespace edgekern
