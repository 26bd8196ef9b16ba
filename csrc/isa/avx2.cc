// AVX2, exact. The byte product AVX2 has, vpmaddubsw, takes u8 x s8 and saturates: 255 * 127 * 2 does not fit in 16 bits.
//
// So activations are stored as a' = q - 128, split into |a'| <= 128 and a sign mask, and the sign goes to the weight:
//
//   a' * w = |a'| * (w ^ mask) + (mask ? |a'| : 0)          since -w = ~w + 1
//
// The xor is cheaper than vpsignb, the usual choice (10 % in this loop on Zen 3), and takes w = -128 without a special case.
// What it owes, the sum of |a'| over negative a', does not depend on the column: it is summed once a row and goes into the
// accumulator's start (row_sum). |128 * -128 * 2| = 32768 just fits as negative.
//
// 2 x 32 tile: 8 accumulators, 4 rhs, mask and magnitude, ones, 1 temporary = 16 of 16 registers. 4 x 16 has as many
// accumulators but 10 loads a step for 8: 7 % slower on Zen 3.
#include "isa/avx2_nibbles.h"
#include "isa/dot4.h"
#include "isa/kernels_of.h"

namespace edgekern {
namespace {

struct Avx2 : Dot4<Avx2Vectors>, Avx2Expand {
  static constexpr const char* kInt8GemmName = "int8_gemm_avx2";
  static constexpr const char* kInt8GemvName = "int8_gemv_avx2";
  static constexpr const char* kF32SpmmName = "f32_spmm_avx2";
  static constexpr const char* kF16SpmmName = "f16_spmm_avx2";

  struct Lhs {
    __m256i mask, magnitude;
  };
  using Rhs = __m256i;
  static constexpr int kLhsBytes = 2;  // per 4 k: 4 bytes of mask, 4 of magnitude
  static constexpr int32_t kZeroOffset = 128;

  static constexpr int kRows = 2;
  static constexpr int panels_at(int rows) { return rows == 1 ? 4 : 2; }
  static constexpr int phases_at(int rows, int panels) { return rows * panels >= 3 ? 1 : 2; }
  static constexpr int kStreamRows = 2;
  static constexpr int64_t kPrefetchBytes = 1024;

  static EK_INLINE Lhs load_lhs(const uint8_t* p) {
    int32_t mask, magnitude;
    memcpy(&mask, p, 4);
    memcpy(&magnitude, p + 4, 4);
    return {_mm256_set1_epi32(mask), _mm256_set1_epi32(magnitude)};
  }
  template <int kVector>
  static EK_INLINE Rhs load_rhs(const int8_t* p) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(p) + kVector);
  }
  static EK_INLINE I32 multiply(I32 acc, const Lhs& lhs, Rhs rhs) {
    __m256i pairs = _mm256_maddubs_epi16(lhs.magnitude, _mm256_xor_si256(rhs, lhs.mask));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static EK_INLINE void opaque(Lhs& lhs) { __asm__ volatile("" : "+x"(lhs.mask), "+x"(lhs.magnitude)); }

  static EK_INLINE void store_lhs(uint8_t* p, Bytes q, I32& row_sum) {
    __m256i shifted = _mm256_xor_si256(q, _mm256_set1_epi8(-128));  // q - 128 as s8
    __m256i mask = _mm256_cmpgt_epi8(_mm256_setzero_si256(), shifted);
    __m256i magnitude = _mm256_abs_epi8(shifted);
    __m256i owed = _mm256_sad_epu8(_mm256_and_si256(magnitude, mask), _mm256_setzero_si256());
    row_sum = _mm256_add_epi32(row_sum, owed);
    // Unpacking works in 128-bit halves: dwords 0,1,4,5 and 2,3,6,7 come out together.
    __m256i low = _mm256_unpacklo_epi32(mask, magnitude), high = _mm256_unpackhi_epi32(mask, magnitude);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), _mm256_permute2x128_si256(low, high, 0x31));
  }

  static constexpr int8::Order kBlockOrder{.line_depth = 2, .odd_sums = 0};
  static constexpr const char* kInt8SpmmName = "int8_spmm_avx2";
  static constexpr const char* kInt8DepthwiseName = "int8_depthwise_avx2";
  static constexpr int block_vectors(int channels) { return 8 / channels; }
  static constexpr int f32_vectors(int channels) { return 8 / channels; }
  static constexpr int block_phases(int, int) { return 1; }
  static constexpr int kCsrUnroll = 4;
  static constexpr bool kJoinsParts = false;
  static EK_INLINE I32 spread_blocks(const uint8_t* q, int32_t zero_point) {
    __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q)));
    return _mm256_sub_epi16(wide, _mm256_set1_epi16(static_cast<int16_t>(zero_point)));
  }
  static EK_INLINE I32 multiply_lanes(I32 acc, I32 a, I32 weights) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(a, weights));
  }
  template <int kWeight>
  static EK_INLINE I32 multiply_block(I32 acc, I32 a, const int32_t* weights) {
    return multiply_lanes(acc, a, _mm256_set1_epi32(weights[kWeight]));
  }
};

// Nibbles are small enough to need none of that: |2 * 15 * -128| fits in 16 bits.
// 4 x 16 tile: 8 accumulators, 2 rhs, lhs, ones, 1 temporary.
struct Avx2Int4 : Dot4<Avx2Vectors>, Avx2Expand, Avx2Nibbles {
  static constexpr const char* kInt4GemmName = "int4_gemm_avx2";
  static constexpr const char* kInt4GemvName = "int4_gemv_avx2";

  using Lhs = __m256i;
  using Rhs = __m256i;
  static constexpr int kLhsBytes = 1;
  static constexpr int kRows = 4;
  static constexpr int panels_at(int) { return 1; }
  static constexpr int phases_at(int rows, int) { return rows <= 2 ? 2 : 1; }

  static EK_INLINE Lhs load_lhs(const uint8_t* p) {
    int32_t four;
    memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
  }
  template <int kVector>
  static EK_INLINE Rhs load_rhs(const int8_t* p) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(p) + kVector);
  }
  static EK_INLINE I32 multiply(I32 acc, Lhs lhs, Rhs rhs) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(rhs, lhs), _mm256_set1_epi16(1)));
  }

  static constexpr int line_phases_at(int rows) { return rows == 1 ? 2 : 1; }
  static constexpr bool kHighInPlace = false;  // 2 * 240 * -128 would not fit
};

}  // namespace

extern const Kernels kernels_avx2;
constexpr Kernels kernels_avx2 = kernels_of<Avx2, Avx2Int4>();

}  // namespace edgekern
