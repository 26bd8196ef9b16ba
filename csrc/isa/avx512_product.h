// The int8 product of AVX-512 VNNI, for both ISAs that have it.
//
// 6 x 64 tile: 24 accumulators, 4 rhs, 1 lhs = 29 of 32 registers; each lhs broadcast feeds 4 vpdpbusd and each rhs line 6,
// so loads stay below the two multiplies a cycle. One row: 4 panels x 4 phases = 16 chains against a latency of 4-5.
#pragma once

#include "isa/avx512_vectors.h"
#include "isa/dot4.h"

namespace edgekern {
namespace {

struct Avx512Product : Dot4<Avx512Vectors> {
  static constexpr const char* kInt8GemmName = "int8_gemm_avx512_vnni";
  static constexpr const char* kInt8GemvName = "int8_gemv_avx512_vnni";
  static constexpr const char* kF32SpmmName = "f32_spmm_avx512";
  static constexpr const char* kF16SpmmName = "f16_spmm_avx512";

  using Lhs = __m512i;
  using Rhs = __m512i;
  static constexpr int kLhsBytes = 1;
  static constexpr int32_t kZeroOffset = 0;

  static constexpr int kRows = 6;
  static constexpr int panels_at(int) { return 4; }
  static constexpr int phases_at(int rows, int) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }
  static constexpr int kStreamRows = 2;
  static constexpr int64_t kPrefetchBytes = 1024;

  static EK_INLINE Lhs load_lhs(const uint8_t* p) {
    int32_t four;
    memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
  }
  template <int>
  static EK_INLINE Rhs load_rhs(const int8_t* p) {
    return _mm512_load_si512(p);
  }

  using Expanded = __m512i;
  // Expanding from memory is a masked load, which is slower than a load and then the register form.
  static EK_INLINE __m512i load_kept(const int8_t* values) {
    __m512i kept = _mm512_loadu_si512(values);
    __asm__("" : "+v"(kept));
    return kept;
  }
  static EK_INLINE Expanded expand_fours(const uint8_t* p, const int8_t*& values) {
    __mmask16 mask;
    memcpy(&mask, p, 2);
    __m512i kept = load_kept(values);
    values += 4 * _mm_popcnt_u32(mask);
    return _mm512_maskz_expand_epi32(mask, kept);
  }
  template <int>
  static EK_INLINE Rhs expanded_rhs(Expanded line) {
    return line;
  }
  static EK_INLINE void store_expanded(int8_t* p, Expanded line) { _mm512_store_si512(p, line); }
  static constexpr int kExpandRows = 4;
  static constexpr int64_t kExpandAhead = 512;
  static constexpr int64_t kMasksAhead = 256;

  // One instruction by hand: gcc 12 copies or spills every accumulator around the intrinsic.
  static EK_INLINE I32 multiply(I32 acc, Lhs lhs, Rhs rhs) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(lhs), "v"(rhs));
    return acc;
  }
  static EK_INLINE void opaque(Lhs& lhs) { __asm__ volatile("" : "+v"(lhs)); }

  static EK_INLINE void store_lhs(uint8_t* p, const Bytes& q, I32&) { store_bytes(p, q); }

  static constexpr int8::Order kBlockOrder{.line_depth = 4, .odd_sums = 0};
  static constexpr const char* kInt8SpmmName = "int8_spmm_avx512_vnni";
  static constexpr const char* kInt8DepthwiseName = "int8_depthwise_avx512_vnni";
  static constexpr int32_t kBlockZeroOffset = 0;
  static constexpr int block_vectors(int) { return 2; }
  static constexpr int f32_vectors(int) { return 2; }
  static constexpr int block_phases(int channels, int vectors) { return channels == 1 ? 4 : channels * vectors <= 4 ? 2 : 1; }
  static constexpr int kCsrUnroll = 1;
  static constexpr bool kJoinsParts = true;
  static EK_INLINE I32 spread_blocks(const uint8_t* q, int32_t) { return load_i32(reinterpret_cast<const int32_t*>(q)); }
  // Spreading a weight takes a load, and so does a vector of activations, which serves but one product where a block is one
  // channel: there four blocks' weights come with one load and are spread in registers. 13 to 20 % on Zen 4.
  struct FourWeights {
    __m512i four;
  };
  template <int R, int B>
  static constexpr bool kSpreadInRegisters = R == 1 && B == 4;
  template <int R, int B>
  static EK_INLINE auto load_weights(const int32_t* p) {
    if constexpr (kSpreadInRegisters<R, B>)
      return FourWeights{_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
    else
      return p;
  }
  template <int R, int B>
  static EK_INLINE auto load_f32_weights(const float* p) {
    if constexpr (kSpreadInRegisters<R, B>)
      return load_weights<R, B>(reinterpret_cast<const int32_t*>(p));
    else
      return p;
  }
  template <int kWeight>
  static EK_INLINE I32 spread(const FourWeights& weights) {
    return _mm512_shuffle_epi32(weights.four, static_cast<_MM_PERM_ENUM>(kWeight * 0x55));
  }
  static EK_INLINE I32 multiply_lanes(I32 acc, I32 a, I32 weights) { return multiply(acc, a, weights); }
  template <int kWeight>
  static EK_INLINE I32 multiply_block(I32 acc, I32 a, const int32_t* weights) {
    return multiply_lanes(acc, a, set_i32(weights[kWeight]));
  }
  template <int kWeight>
  static EK_INLINE I32 multiply_block(I32 acc, I32 a, const FourWeights& weights) {
    return multiply_lanes(acc, a, spread<kWeight>(weights));
  }
  using Dot4<Avx512Vectors>::multiply_f32;
  template <int kWeight>
  static EK_INLINE F32 multiply_f32(F32 acc, F32 a, const FourWeights& weights) {
    return fma(a, as_f32(spread<kWeight>(weights)), acc);
  }
};

}  // namespace
}  // namespace edgekern
