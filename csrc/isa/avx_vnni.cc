// AVX-VNNI: the 256-bit vpdpbusd of Alder Lake and later client CPUs, N100 and other E-core boxes included.
// It multiplies u8 by s8 and adds four products to an int32 without saturating, so nothing is owed.
//
// 6 x 16 tile: 12 accumulators, 2 rhs, 1 lhs = 15 of 16 registers.
#include "isa/avx2_nibbles.h"
#include "isa/dot4.h"
#include "isa/kernels_of.h"

namespace edgekern {
namespace {

struct AvxVnni : Dot4<Avx2Vectors>, Avx2Expand {
  static constexpr const char* kInt8GemmName = "int8_gemm_avx_vnni";
  static constexpr const char* kInt8GemvName = "int8_gemv_avx_vnni";
  static constexpr const char* kF32SpmmName = "f32_spmm_avx2";
  static constexpr const char* kF16SpmmName = "f16_spmm_avx2";

  using Lhs = __m256i;
  using Rhs = __m256i;
  static constexpr int kLhsBytes = 1;
  static constexpr int32_t kZeroOffset = 0;

  static constexpr int kRows = 6;
  static constexpr int panels_at(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }
  static constexpr int phases_at(int rows, int panels) { return rows * panels >= 4 ? 1 : 2; }
  static constexpr int kStreamRows = 2;
  static constexpr int64_t kPrefetchBytes = 1024;

  static EK_INLINE Lhs load_lhs(const uint8_t* p) {
    int32_t four;
    memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
  }
  template <int kVector>
  static EK_INLINE Rhs load_rhs(const int8_t* p) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(p) + kVector);
  }
  // One instruction by hand: gcc 12 copies the accumulator around the intrinsic. {vex}, or assemblers pick AVX-512's form.
  static EK_INLINE I32 multiply(I32 acc, Lhs lhs, Rhs rhs) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(lhs), "x"(rhs));
    return acc;
  }
  static EK_INLINE void opaque(Lhs& lhs) { __asm__ volatile("" : "+x"(lhs)); }

  static EK_INLINE void store_lhs(uint8_t* p, Bytes q, I32&) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), q); }

  static constexpr int8::Order kBlockOrder{.line_depth = 4, .odd_sums = 0};
  static constexpr const char* kInt8SpmmName = "int8_spmm_avx_vnni";
  static constexpr const char* kInt8DepthwiseName = "int8_depthwise_avx_vnni";
  static constexpr int32_t kBlockZeroOffset = 0;
  static constexpr int block_vectors(int channels) { return 8 / channels; }
  static constexpr int f32_vectors(int channels) { return 8 / channels; }
  static constexpr int block_phases(int channels, int vectors) { return channels * vectors <= 4 ? 2 : 1; }
  static constexpr int kCsrUnroll = 2;
  static constexpr bool kJoinsParts = false;
  static EK_INLINE I32 spread_blocks(const uint8_t* q, int32_t) { return load_i32(reinterpret_cast<const int32_t*>(q)); }
  static EK_INLINE I32 multiply_lanes(I32 acc, I32 a, I32 weights) { return multiply(acc, a, weights); }
  template <int kWeight>
  static EK_INLINE I32 multiply_block(I32 acc, I32 a, const int32_t* weights) {
    return multiply_lanes(acc, a, set_i32(weights[kWeight]));
  }
};

struct AvxVnniInt4 : AvxVnni, Avx2Nibbles {
  static constexpr const char* kInt4GemmName = "int4_gemm_avx_vnni";
  static constexpr const char* kInt4GemvName = "int4_gemv_avx_vnni";

  using Avx2Nibbles::kPrefetchBytes;
  using Avx2Nibbles::kStreamRows;
  using Avx2Nibbles::kZeroOffset;
  using Avx2Nibbles::store_lhs;
  static EK_INLINE I32 multiply(I32 acc, Lhs lhs, Rhs rhs) { return AvxVnni::multiply(acc, rhs, lhs); }
  static constexpr int line_phases_at(int) { return 2; }
  static constexpr bool kHighInPlace = true;
};

}  // namespace

extern const Kernels kernels_avx_vnni;
constexpr Kernels kernels_avx_vnni = kernels_of<AvxVnni, AvxVnniInt4>();

}  // namespace edgekern
